// Classifies one image from Node: node examples/classify.js PROTOS HOST:PORT TASK ROUTE IMAGE
// Needs: npm install @grpc/grpc-js @grpc/proto-loader
const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [protos, server, task, route, image] = process.argv.slice(2);
const files = loader.loadSync("corolla/v1/classifier.proto", { includeDirs: [protos], keepCase: true });
const { Classifier } = grpc.loadPackageDefinition(files).corolla.v1;
const client = new Classifier(server, grpc.credentials.createInsecure());

const request = { task, route, images: [{ data: fs.readFileSync(image) }] };
client.Classify(request, { deadline: Date.now() + 30_000 }, (error, answer) => {
  if (error) {
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    process.exitCode = 1;
  } else {
    const [best] = answer.results[0].top;
    console.log(`${best.class_name} ${best.probability.toFixed(3)} by ${answer.route}`);
  }
  client.close();
});
