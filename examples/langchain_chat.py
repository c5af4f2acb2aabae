"""A prompt template in front of a running suite, by LangChain. First: specgrove serve --http-address 127.0.0.1:8000

pip install langchain-openai
"""

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
prompt = ChatPromptTemplate.from_messages(
    [("system", "You translate from English to {language}."), ("user", "{sentence}")]
)
model = ChatOpenAI(
    model="smollm2-135m-instruct",  # or what you serve
    base_url=f"http://{address}/v1",
    api_key="none",
    temperature=0,
    max_completion_tokens=60,
)
chain = prompt | model | StrOutputParser()
print(chain.invoke({"language": "French", "sentence": "The sky is blue."}))
for text in chain.stream({"language": "German", "sentence": "The sky is blue."}):
    print(text, end="", flush=True)
print()
