// Asks with Java's own client. Arguments: the ports of api.sock, admin.sock, metrics.
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

class Client {
    // HTTP/2 is what it asks for by default: on a plain connection with `Upgrade: h2c`.
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    static void ask(String name, String port, String method, String path,
                    BodyPublisher body, boolean expects) throws Exception {
        var request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + port + path))
            .method(method, body).expectContinue(expects).build();
        var response = CLIENT.send(request, BodyHandlers.ofString());
        var length = response.headers().firstValue("content-length").orElse("null");
        var text = response.body().replace("\\", "\\\\").replace("\"", "\\\"");
        System.out.printf("{\"name\": \"%s\", \"status\": %d, \"length\": %s, \"body\": \"%s\"}%n",
            name, response.statusCode(), length, text);
    }

    static BodyPublisher unsized(String text) {  // without a length: chunked
        return BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(text.getBytes()));
    }

    public static void main(String[] ports) throws Exception {
        String api = ports[0], admin = ports[1], metrics = ports[2];
        var none = BodyPublishers.noBody();
        var key = "/v1/keys/db";
        var order = "{\"keys\": [\"db\"]}";
        ask("get", api, "GET", key, none, false);
        ask("head", api, "HEAD", key, none, false);
        ask("get again", api, "GET", key, none, false);
        ask("chunked", admin, "POST", "/v1/refresh", unsized(order), false);
        ask("continue", admin, "POST", "/v1/refresh", unsized(order), true);
        ask("metrics", metrics, "HEAD", "/metrics", none, false);
        ask("health", metrics, "GET", "/healthz", none, false);
        System.exit(0);
    }
}
