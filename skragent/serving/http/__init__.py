"""HTTP/1.1 on one connection: requests, responses, long polls.

This package imports nothing else of skragent. The server that accepts connections
implements the protocols of `interfaces`.
"""
