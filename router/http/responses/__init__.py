"""``/v1/responses``, OpenAI's newer way to converse, without what it keeps: each request brings the whole conversation.

``bodies`` is what is sent, ``asked`` makes a conversation of it, ``format`` writes the answer, which ``models`` describes.
"""
