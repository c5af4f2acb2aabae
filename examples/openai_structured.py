"""An answer as a pydantic model, with OpenAI's client. First: specgrove serve --http-address 127.0.0.1:8000"""

import sys
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel, Field


class Review(BaseModel):
    """What is read out of a text."""

    mood: Literal["good", "mixed", "bad"]
    stars: int = Field(ge=1, le=5)
    words: list[str] = Field(max_length=3)


address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
client = OpenAI(base_url=f"http://{address}/v1", api_key="none")
answer = client.chat.completions.parse(
    model=client.models.list().data[0].id,
    messages=[
        {"role": "system", "content": "Rate reviews as JSON: the mood, 1 to 5 stars, and up to 3 words of the review."},
        {"role": "user", "content": "The soup was cold, but the waiter was so kind that I will come again."},
    ],
    response_format=Review,
    temperature=0,
    max_completion_tokens=100,
)
review = answer.choices[0].message.parsed
print(review.model_dump_json(indent=2) if review else answer.choices[0].finish_reason)
