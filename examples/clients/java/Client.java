// A client in Java: a whole output, then one as it comes. README.md says how to build it.
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import specgrove.v1.Router.Chat;
import specgrove.v1.Router.ChatMessage;
import specgrove.v1.Router.GenerateRequest;
import specgrove.v1.RouterServiceGrpc;
import specgrove.v1.RouterServiceGrpc.RouterServiceBlockingStub;
import specgrove.v1.TokenTreeOuterClass.SamplingParams;

public class Client {
  public static void main(String[] arguments) {
    String address = arguments.length > 0 ? arguments[0] : "127.0.0.1:50051";
    ManagedChannel channel = ManagedChannelBuilder.forTarget(address).usePlaintext().build();
    RouterServiceBlockingStub router = RouterServiceGrpc.newBlockingStub(channel);
    try {
      // A text is continued. The answer comes in pieces, which are joined here.
      GenerateRequest prompt =
          GenerateRequest.newBuilder().setText("The capital of France is").setMaxTokens(16).build();
      StringBuilder text = new StringBuilder();
      router.generate(prompt).forEachRemaining(response -> text.append(response.getText()));
      System.out.println(text);

      // A conversation gets the model's chat template. With a seed the same answer comes each time.
      ChatMessage question =
          ChatMessage.newBuilder().setRole("user").setContent("Name three primes.").build();
      GenerateRequest chat =
          GenerateRequest.newBuilder()
              .setChat(Chat.newBuilder().addMessages(question))
              .setSampling(SamplingParams.newBuilder().setTemperature(0.7f).setSeed(1))
              .setMaxTokens(40)
              .build();
      router.generate(chat).forEachRemaining(response -> System.out.print(response.getText()));
      System.out.println();
    } catch (StatusRuntimeException error) {
      System.err.println(error.getStatus().getCode() + ": " + error.getStatus().getDescription());
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }
}
