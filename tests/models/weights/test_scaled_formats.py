"""Weights of 8 bits with scales beside them, with and without a word in config.json; and formats that are refused by their name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.inventory import describe
from specgrove.models.weights.checkpoint import ALL
from specgrove.models.weights.opening import open_checkpoint
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import save_tiny_llama
from tests.models.quantized_folders import DequantisingWeights, edit_config, is_quantised, values_of
from tests.models.test_decoder import PROMPTS, chunked_logits

FP8 = torch.float8_e4m3fn
CONFIGS: dict[str, dict[str, object] | None] = {
    "not told": None,
    "fp8": {"quant_method": "fp8", "weight_block_size": [16, 32]},
    "ModelOpt": {"quant_method": "modelopt", "quant_algo": "FP8"},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "float-quantized"},
}


def scaled(weight: torch.Tensor, scales: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes as floats, the scales to store, and the scale of every value."""
    num_out, num_in = weight.shape
    blocks = {"tensor": (num_out, num_in), "channel": (1, num_in), "vector": (1, num_in), "block": (16, 32)}[scales]
    rows, columns = torch.arange(num_out) // blocks[0], torch.arange(num_in) // blocks[1]
    values = 0.002 + 0.001 * torch.rand(int(rows[-1]) + 1, int(columns[-1]) + 1)
    stored = values.view(()) if scales == "tensor" else values[:, 0] if scales == "vector" else values
    return weight / values[rows][:, columns], stored, values[rows][:, columns]


def make(
    folder: Path, scales: str, config: str, dtype: torch.dtype = FP8, suffix: str = "weight_scale"
) -> dict[str, torch.Tensor]:
    """A tiny Llama in 8 bits; returns what its weights stand for."""
    save_tiny_llama(folder, seed=4)
    tensors, values = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensors[name] = values[name] = tensor
        if is_quantised(name):
            codes, stored, expanded = scaled(tensor, scales)
            tensors[name] = codes.clamp(-448, 448).to(FP8) if dtype == FP8 else codes.round().clamp(-127, 127).to(dtype)
            values[name] = tensors[name].float() * expanded
            tensors[name.removesuffix("weight") + suffix] = stored.contiguous()
            tensors[name.removesuffix("weight") + "input_scale"] = torch.ones(())
    save_file(tensors, folder / "model.safetensors")
    if CONFIGS[config] is not None:
        edit_config(folder, quantization_config=CONFIGS[config])
    return values


CASES = [
    ("tensor", "ModelOpt", FP8, "weight_scale"),
    ("tensor", "not told", FP8, "weight_scale"),
    ("channel", "compressed-tensors", FP8, "weight_scale"),
    ("vector", "not told", FP8, "weight_scale"),
    ("block", "fp8", FP8, "weight_scale_inv"),
    ("channel", "not told", torch.int8, "weight_scale"),
    ("tensor", "compressed-tensors", torch.int8, "weight_scale"),
]


@pytest.mark.parametrize(("scales", "config", "dtype", "suffix"), CASES)
def test_values_are_codes_times_scales(scales: str, config: str, dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:  # fmt: skip
    from transformers import LlamaForCausalLM

    values = make(tmp_path, scales, config, dtype, suffix)
    with open_checkpoint(tmp_path) as checkpoint:
        for name in filter(is_quantised, values):
            weight = checkpoint.weight(name, ALL, ALL)
            assert isinstance(weight, QuantizedWeight) == (dtype == torch.int8)  # which keeps its 8 bits
            assert torch.allclose(values_of(weight), values[name], rtol=1e-6, atol=0)
            part = checkpoint.weight(name, slice(5, 27), slice(8, 40))
            assert torch.equal(values_of(part), values_of(weight)[5:27, 8:40])
    model = LlamaForCausalLM.from_pretrained(save_tiny_llama(tmp_path / "plain", seed=4), dtype=torch.float32)
    model.load_state_dict(values)
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    decoder = load_decoder(tmp_path, torch.float32, store=DequantisingWeights())
    assert (chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 11) - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("dtype", [FP8, torch.int8])
@pytest.mark.parametrize("has_tied_head", [False, True])
def test_an_embedding_may_have_scales_too(has_tied_head: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """A table, and where it is the head's weight, too."""
    values = make(tmp_path, "channel", "fp8", dtype)
    tensors, name = load_file(tmp_path / "model.safetensors"), "model.embed_tokens.weight"
    codes, stored, expanded = scaled(tensors[name], "channel")
    tensors[name] = codes.clamp(-448, 448).to(FP8) if dtype == FP8 else codes.round().clamp(-127, 127).to(dtype)
    values[name] = tensors[name].float() * expanded
    if has_tied_head:
        del tensors["lm_head.weight"]
        values["lm_head.weight"] = values[name].clone()
        edit_config(tmp_path, tie_word_embeddings=True)
    save_file({**tensors, f"{name}_scale": stored}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert torch.allclose(checkpoint.tensor(name, slice(5, 27)), values[name][5:27], rtol=1e-6, atol=0)
    plain = save_tiny_llama(tmp_path / "plain", seed=4)
    save_file(values, plain / "model.safetensors")
    expected = chunked_logits(ModelRunner(load_decoder(plain, torch.float32), 64), PROMPTS[0], 11)
    decoder = load_decoder(tmp_path, torch.float32, store=DequantisingWeights())
    assert (chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 11) - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("kind", ["linear", "all", "norm"])
def test_codes_whose_scales_are_missing_are_refused(kind: str, tmp_path: Path) -> None:
    """As they stand they would be weights hundreds of times too large."""
    make(tmp_path, "channel", "fp8")
    tensors = load_file(tmp_path / "model.safetensors")
    if kind == "norm":
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(FP8)
    else:
        lost = [name for name in tensors if name.endswith("_scale")]
        for name in lost if kind == "all" else [name for name in lost if name.endswith("0.mlp.up_proj.weight_scale")]:
            del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"no scale is beside it.* part of the checkpoint is missing"):
        load_decoder(tmp_path, torch.float32)


def test_bounds_of_activations_are_not_needed(tmp_path: Path) -> None:
    """FBGEMM's; activations stay in 16 bits."""
    make(tmp_path, "channel", "not told")
    tensors = load_file(tmp_path / "model.safetensors")
    bounds = {name + "_ub": torch.tensor(1200.0) for name in tensors if name.endswith("input_scale")}
    save_file(tensors | bounds, tmp_path / "model.safetensors")
    edit_config(tmp_path, quantization_config={"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0})
    load_decoder(tmp_path, torch.float32)


def test_a_code_that_no_kernel_has_is_dequantised(tmp_path: Path) -> None:
    values = make(tmp_path, "channel", "not told", torch.int8)
    name = next(filter(is_quantised, values))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[name][0, 0] = -128
    save_file(tensors, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        weight = checkpoint.weight(name, ALL, ALL)
    assert isinstance(weight, torch.Tensor)
    assert weight[0, 0] == -128 * tensors[name + "_scale"][0, 0]


def test_bytes_as_scales_are_exponents(tmp_path: Path) -> None:
    """MXFP8 of ModelOpt and compressed-tensors: sgl-project/sglang#32538 took its bytes for numbers."""
    values, folder = make(tmp_path / "mx", "block", "ModelOpt"), tmp_path / "mx"
    name, tensors = "model.layers.0.mlp.down_proj.weight", load_file(folder / "model.safetensors")
    exponents = torch.randint(110, 130, (tensors[name].shape[0], tensors[name].shape[1] // 16), dtype=torch.uint8)
    tensors[name + "_scale"] = exponents
    save_file(tensors, folder / "model.safetensors")
    wanted = tensors[name].float() * torch.exp2(exponents.float() - 127).repeat_interleave(16, 1)
    with open_checkpoint(folder) as checkpoint:
        assert torch.equal(values_of(checkpoint.weight(name, ALL, ALL)), wanted)
        assert torch.equal(values_of(checkpoint.weight(name, slice(3, 9), slice(16, 48))), wanted[3:9, 16:48])
    assert not torch.equal(wanted, values[name])


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (torch.full((1,), 255, dtype=torch.uint8), "hold NaN"),
        (torch.ones(1, dtype=torch.int32), "only floats are read"),
    ],
)
def test_whole_numbers_as_scales_that_mean_nothing_are_refused(
    scales: torch.Tensor, message: str, tmp_path: Path
) -> None:
    make(tmp_path / "mx", "tensor", "ModelOpt")
    name, tensors = "model.layers.0.mlp.down_proj.weight", load_file(tmp_path / "mx" / "model.safetensors")
    save_file(tensors | {name + "_scale": scales}, tmp_path / "mx" / "model.safetensors")
    with open_checkpoint(tmp_path / "mx") as checkpoint, pytest.raises(UnsupportedModelError, match=message):
        checkpoint.weight(name, ALL, ALL)


def test_scales_that_fit_no_blocks_are_refused(tmp_path: Path) -> None:
    values = make(tmp_path, "channel", "not told")
    name = next(filter(is_quantised, values)) + "_scale"
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {name: torch.ones(7, 5)}, tmp_path / "model.safetensors")
    with pytest.raises(
        UnsupportedModelError, match=r"weight_scale has \d scales for \d+ outputs, which no size of blocks"
    ):
        load_decoder(tmp_path, torch.float32)


FOREIGN = {
    "MLX's quantisation": {"{}.weight": torch.uint32, "{}.scales": torch.float16, "{}.biases": torch.float16},
    "NVFP4": {"{}.weight": torch.uint8, "{}.weight_scale": FP8, "{}.weight_scale_2": torch.float32},
    "bitsandbytes' 4 bits": {"{}.weight": torch.uint8, "{}.weight.absmax": torch.float32, "{}.weight.quant_map": torch.float32},
    "bitsandbytes' 8 bits": {"{}.weight": torch.int8, "{}.SCB": torch.float32},
    "compressed-tensors' packed integers": {"{}.weight_packed": torch.int32, "{}.weight_scale": torch.float16},
    "HQQ": {"{}.W_q": torch.uint8, "{}.meta": torch.float16},
    "GPTQ or AWQ": {"{}.qweight": torch.int32, "{}.qzeros": torch.int32, "{}.scales": torch.float16},
}  # fmt: skip


@pytest.mark.parametrize("method", [None, "other"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_other_formats_are_refused_by_their_name(kind: str, method: str | None, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, seed=4)
    (tmp_path / "tokenizer.json").write_text("{}")
    tensors = load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if is_quantised(name)]:
        del tensors[name]
        stem = name.removesuffix(".weight")
        tensors |= {part.format(stem): torch.zeros(4, 4).to(dtype) for part, dtype in FOREIGN[kind].items()}
    save_file(tensors, tmp_path / "model.safetensors")
    if method is not None:
        edit_config(tmp_path, quantization_config={"quant_method": method})
    with pytest.raises(
        UnsupportedModelError, match=rf"(stored|packed) (in|by|as by) {kind}.*(take a checkpoint|quant)"
    ):
        load_decoder(tmp_path, torch.float32)
    assert kind in str(describe(tmp_path).problem)


def test_scales_under_both_names_contradict_each_other(tmp_path: Path) -> None:
    make(tmp_path, "tensor", "fp8")
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight_scale"))
    save_file({**tensors, name + "_inv": torch.tensor(500.0)}, tmp_path / "model.safetensors")
    with pytest.raises(
        UnsupportedModelError, match=r"has both .*q_proj\.weight_scale_inv and .*q_proj\.weight_scale beside it"
    ):
        load_decoder(tmp_path, torch.float32)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scales_that_are_no_numbers_are_named(value: float, tmp_path: Path) -> None:
    make(tmp_path, "channel", "fp8")
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight_scale"))
    tensors[name][1] = value
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"the scales of .*q_proj\.weight hold NaN or infinity"):
        load_decoder(tmp_path, torch.float32)


def test_weights_that_are_no_codes_have_no_scales(tmp_path: Path) -> None:
    """As in a checkpoint that was prepared for quantisation: to multiply them would be wrong."""
    save_tiny_llama(tmp_path, seed=4)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, f"{name}_scale": torch.tensor(0.5)}, tmp_path / "model.safetensors")
    with pytest.raises(
        UnsupportedModelError, match=r"up_proj\.weight has scales beside it and holds torch\.float32: only"
    ):
        load_decoder(tmp_path, torch.float32)
