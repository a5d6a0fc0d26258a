// Asks with Go's own client. Arguments: the ports of api.sock, admin.sock, metrics.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"time"
)

var client = &http.Client{Transport: &http.Transport{
	MaxConnsPerHost:       1,
	ExpectContinueTimeout: time.Hour, // the body is sent after a 100, or never
}}

type found struct {
	Name      string `json:"name"`
	Status    int    `json:"status"`
	Length    int64  `json:"length"`
	Body      string `json:"body"`
	Continued *int   `json:"continued,omitempty"`
}

func ask(name, port, method, path, body string, expects bool) {
	var content io.Reader
	if body != "" {
		content = io.MultiReader(strings.NewReader(body)) // without a length: chunked
	}
	continued := 0
	trace := &httptrace.ClientTrace{Got100Continue: func() { continued++ }}
	request, err := http.NewRequestWithContext(
		httptrace.WithClientTrace(context.Background(), trace),
		method, "http://127.0.0.1:"+port+path, content)
	check(err)
	answer := found{Name: name}
	if expects {
		request.Header.Set("Expect", "100-continue")
		answer.Continued = &continued
	}
	response, err := client.Do(request)
	check(err)
	text, err := io.ReadAll(response.Body)
	check(err)
	response.Body.Close()
	answer.Status, answer.Length, answer.Body = response.StatusCode, response.ContentLength, string(text)
	line, err := json.Marshal(answer)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	api, admin, metrics := os.Args[1], os.Args[2], os.Args[3]
	key, order := "/v1/keys/db", `{"keys": ["db"]}`
	ask("get", api, "GET", key, "", false)
	ask("head", api, "HEAD", key, "", false)
	ask("get again", api, "GET", key, "", false)
	ask("chunked", admin, "POST", "/v1/refresh", order, false)
	ask("continue", admin, "POST", "/v1/refresh", order, true)
	ask("no continue", api, "POST", key, order, true)
	ask("metrics", metrics, "HEAD", "/metrics", "", false)
	ask("health", metrics, "GET", "/healthz", "", false)
}
