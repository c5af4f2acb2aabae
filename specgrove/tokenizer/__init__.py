"""Text to token ids and back, with the model's own tokenizer files. Used by the router and by training scripts; no torch.

``files`` reads a folder, ``special_tokens`` knows which tokens its files add and name, ``chat_template`` renders conversations
of ``messages``,
``detokenizer`` makes text of tokens as they come, and ``Tokenizer`` puts them together.
"""

from specgrove.tokenizer.chat_template import ChatOptions
from specgrove.tokenizer.detokenizer import IncrementalDetokenizer
from specgrove.tokenizer.files import TOKENIZER_FILE_NAMES
from specgrove.tokenizer.messages import Message
from specgrove.tokenizer.tokenizer import Tokenizer, chat_problem_of

__all__ = ["TOKENIZER_FILE_NAMES", "ChatOptions", "IncrementalDetokenizer", "Message", "Tokenizer", "chat_problem_of"]
