"""Gradio's chat with the Python API, as in FlexFlow Serve's examples: run it, and open the address that it prints."""

import gradio as gr

import specgrove.serve as sg

llm = sg.LLM("smollm2-135m-instruct")
llm.compile(sg.GenerationConfig(do_sample=False), ssms=["lookup", "demo"])


def generate_response(user_input, history):
    said = [{"role": message["role"], "content": message["content"]} for message in history]
    return llm.generate([*said, {"role": "user", "content": user_input}]).output_text


with llm:
    gr.ChatInterface(fn=generate_response, title="SpecGrove").launch()
