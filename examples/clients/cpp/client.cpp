// A client in C++: a whole output, then one as it comes. README.md says how to build it.
#include <grpcpp/grpcpp.h>

#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>

#include "specgrove/v1/router.grpc.pb.h"

using specgrove::v1::GenerateRequest;
using specgrove::v1::GenerateResponse;
using specgrove::v1::RouterService;

// Calls `show` with each piece of the output as it comes.
void stream(RouterService::Stub& router, const GenerateRequest& request,
            const std::function<void(const std::string&)>& show) {
  grpc::ClientContext context;  // of one call
  GenerateResponse response;
  const auto reader = router.Generate(&context, request);
  while (reader->Read(&response)) show(response.text());
  if (const grpc::Status status = reader->Finish(); !status.ok()) {
    std::cerr << "error " << status.error_code() << ": " << status.error_message() << '\n';
    std::exit(1);
  }
}

int main(int argc, char** argv) {
  const std::string address = argc > 1 ? argv[1] : "127.0.0.1:50051";
  const auto router = RouterService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));

  // A text is continued. The answer comes in pieces, which are joined here.
  GenerateRequest prompt;
  prompt.set_text("The capital of France is");
  prompt.set_max_tokens(16);
  std::string text;
  stream(*router, prompt, [&](const std::string& piece) { text += piece; });
  std::cout << text << '\n';

  // A conversation gets the model's chat template. With a seed the same answer comes each time.
  GenerateRequest chat;
  auto* question = chat.mutable_chat()->add_messages();
  question->set_role("user");
  question->set_content("Name three primes.");
  chat.mutable_sampling()->set_temperature(0.7f);
  chat.mutable_sampling()->set_seed(1);
  chat.set_max_tokens(40);
  stream(*router, chat, [](const std::string& piece) { std::cout << piece << std::flush; });
  std::cout << '\n';
}
