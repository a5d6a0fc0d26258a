// Asks with Node's own client. Arguments: the ports of api.sock, admin.sock, metrics.
import http from "node:http";

const [api, admin, metrics] = process.argv.slice(2).map(Number);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function ask(name, port, method, path, { body, headers = {}, expects } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request({ agent, port, method, path, headers });
    let continued = 0;
    request.on("error", reject);
    request.on("response", (response) => {
      let text = "";
      response.on("data", (data) => (text += data));
      response.on("end", () => {
        const length = response.headers["content-length"];
        const found = { name, status: response.statusCode, length: Number(length), body: text };
        console.log(JSON.stringify(expects ? { ...found, continued } : found));
        resolve();
      });
    });
    if (expects) {
      request.on("continue", () => {
        continued += 1;
        request.end(body);
      });
      request.flushHeaders();
      return;
    }
    if (body !== undefined) request.write(body); // without a length: chunked
    request.end();
  });
}

const key = "/v1/keys/db";
const order = '{"keys": ["db"]}';
const expecting = { headers: { Expect: "100-continue" }, body: order, expects: true };
await ask("get", api, "GET", key);
await ask("head", api, "HEAD", key);
await ask("get again", api, "GET", key);
await ask("chunked", admin, "POST", "/v1/refresh", { body: order });
await ask("continue", admin, "POST", "/v1/refresh", expecting);
await ask("no continue", api, "POST", key, expecting);
await ask("metrics", metrics, "HEAD", "/metrics");
await ask("health", metrics, "GET", "/healthz");
process.exit(0);
