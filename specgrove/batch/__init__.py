"""Files of requests in the form of OpenAI's batch API: read, sent to the HTTP API of a suite, and answered in a file of the same form.

What a body means is the router's business alone (``router.http``): it is sent as it stands in the file.
https://platform.openai.com/docs/guides/batch has the form.
"""
