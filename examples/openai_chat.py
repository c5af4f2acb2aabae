"""Streams an answer with OpenAI's client. First: specgrove serve --http-address 127.0.0.1:8000"""

import sys

from openai import OpenAI

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
client = OpenAI(base_url=f"http://{address}/v1", api_key="none")
chunks = client.chat.completions.create(
    model=client.models.list().data[0].id,
    messages=[{"role": "user", "content": "Why is the sky blue?"}],
    temperature=0,
    max_completion_tokens=100,
    stream=True,
)
for chunk in chunks:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
