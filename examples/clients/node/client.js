// A client in Node: a whole output, then one as it comes. Run: npm install && node client.js [HOST:PORT]
const path = require("path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const protos = path.join(__dirname, "../../../protos");
const definition = protoLoader.loadSync("specgrove/v1/router.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: String, // a seed has 64 bits, more than a number holds
  enums: String,
  defaults: true, // a field that was not sent is empty, not undefined
});
const { RouterService } = grpc.loadPackageDefinition(definition).specgrove.v1;
const router = new RouterService(process.argv[2] || "127.0.0.1:50051", grpc.credentials.createInsecure());

// The whole output: the answer comes in pieces, which are joined.
async function generate(request) {
  let text = "";
  for await (const response of router.Generate(request)) text += response.text;
  return text;
}

async function main() {
  // A text is continued.
  console.log(await generate({ text: "The capital of France is", max_tokens: 16 }));

  // A conversation gets the model's chat template. With a seed the same answer comes each time.
  const call = router.Generate({
    chat: { messages: [{ role: "user", content: "Name three primes." }] },
    sampling: { temperature: 0.7, seed: 1 },
    max_tokens: 40,
  });
  for await (const response of call) process.stdout.write(response.text);
  console.log();
}

main()
  .catch((error) => {
    console.error(error.details ? `${grpc.status[error.code]}: ${error.details}` : error);
    process.exitCode = 1;
  })
  .finally(() => router.close());
