// A client in Go: a whole output, then one as it comes. README.md says how to build it.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc"
	specgrove "specgrove.example/client/specgrove/v1"
)

// stream calls show with each piece of the output as it comes.
func stream(router specgrove.RouterServiceClient, request *specgrove.GenerateRequest, show func(string)) {
	call, err := router.Generate(context.Background(), request)
	for err == nil {
		var response *specgrove.GenerateResponse
		if response, err = call.Recv(); err == nil {
			show(response.Text)
		}
	}
	if err != io.EOF {
		log.Fatal(err)
	}
}

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	connection, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	router := specgrove.NewRouterServiceClient(connection)

	// A text is continued. The answer comes in pieces, which are joined here.
	text := ""
	prompt := &specgrove.GenerateRequest_Text{Text: "The capital of France is"}
	stream(router, &specgrove.GenerateRequest{Prompt: prompt, MaxTokens: 16}, func(piece string) { text += piece })
	fmt.Println(text)

	// A conversation gets the model's chat template. With a seed the same answer comes each time.
	temperature, seed := float32(0.7), uint64(1)
	question := &specgrove.ChatMessage{Role: "user", Content: "Name three primes."}
	chat := &specgrove.Chat{Messages: []*specgrove.ChatMessage{question}}
	stream(router, &specgrove.GenerateRequest{
		Prompt:    &specgrove.GenerateRequest_Chat{Chat: chat},
		Sampling:  &specgrove.SamplingParams{Temperature: &temperature, Seed: &seed},
		MaxTokens: 40,
	}, func(piece string) { fmt.Print(piece) })
	fmt.Println()
}
