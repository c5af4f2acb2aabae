"""GPTQ and AWQ checkpoints against an independent packer: the same values, whole or sliced, and transformers' logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.inventory import describe
from specgrove.models.folders.model_files import quantization_of
from specgrove.models.weights.checkpoint import ALL, stack
from specgrove.models.weights.opening import open_checkpoint
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import save_tiny_llama
from tests.models.quantized_folders import DequantisingWeights, edit_config, is_quantised, quantise_folder, values_of
from tests.models.test_decoder import PROMPTS, chunked_logits

# Sizes that GPTQ's and AWQ's words divide.
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
CASES = [("gptq", 4, 32, 1), ("gptq", 4, -1, 1), ("gptq", 4, 16, 0), ("gptq", 8, 32, 1), ("awq", 4, 32, 0)]


def tiny(
    folder: Path, method: str, bits: int, group_size: int, offset: int, low: int = 0, zero_spread: int = 256
) -> dict[str, torch.Tensor]:
    save_tiny_llama(folder, seed=5, **SIZES)
    values = quantise_folder(folder, method, bits, group_size, offset, low, zero_spread)
    if method == "gptq" and offset == 0:
        quantization = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "checkpoint_format": "gptq_v2"}
        edit_config(folder, quantization_config=quantization)
    return values


@pytest.mark.parametrize(("method", "bits", "group_size", "offset"), CASES)
def test_weights_have_the_packed_values(method: str, bits: int, group_size: int, offset: int, tmp_path: Path) -> None:
    values = tiny(tmp_path, method, bits, group_size, offset, low=1 if bits == 8 else 0)
    with open_checkpoint(tmp_path) as checkpoint:
        for name, expected in values.items():
            assert name in checkpoint
            if not is_quantised(name):
                continue
            weight = checkpoint.weight(name, ALL, ALL)
            assert isinstance(weight, QuantizedWeight)
            assert weight.bits == bits
            assert torch.equal(weight.dequantized(), expected)
            part = checkpoint.weight(name, slice(5, 27), slice(32, 64) if group_size > 0 else slice(3, 50))
            assert torch.equal(values_of(part), expected[5:27, 32:64] if group_size > 0 else expected[5:27, 3:50])


@pytest.mark.parametrize(("method", "bits", "group_size", "offset"), [*CASES, ("gptq", 8, -1, 1)])
def test_logits_equal_transformers_with_the_dequantised_weights(
    method: str, bits: int, group_size: int, offset: int, tmp_path: Path
) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(save_tiny_llama(tmp_path, seed=5, **SIZES), dtype=torch.float32)
    model.load_state_dict(tiny(tmp_path, method, bits, group_size, offset, zero_spread=2))  # around zero
    decoder = load_decoder(tmp_path, torch.float32, store=DequantisingWeights())
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    assert (chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 4) - expected).abs().max() <= 1e-3
    # The kernels of quantised weights round activations to bfloat16, so a random model's logits are off by more.
    logits = chunked_logits(ModelRunner(load_decoder(tmp_path, torch.float32), 64), PROMPTS[0], 4)
    assert (logits - expected).norm() <= 0.2 * expected.norm()


def test_gptq_of_8_bits_that_uses_all_codes_is_dequantised_without_loss(tmp_path: Path) -> None:
    values = tiny(tmp_path, "gptq", 8, -1, 1)
    tensors = load_file(tmp_path / "model.safetensors")
    stem = Q_PROJ.removesuffix(".weight")
    tensors[stem + ".qweight"][0] = -256  # 0, 255, 255, 255 for every output
    save_file(tensors, tmp_path / "model.safetensors")
    scales, zeros = (tensors[f"{stem}.{part}"] for part in ("scales", "qzeros"))
    zero = (zeros.view(torch.uint8).view(1, -1).float() + 1).T
    expected = values[Q_PROJ].clone()
    expected[:, :4] = (torch.tensor([0.0, 255.0, 255.0, 255.0]) - zero) * scales.float().T
    with open_checkpoint(tmp_path) as checkpoint:
        weight = checkpoint.weight(Q_PROJ, ALL, ALL)
    assert isinstance(weight, torch.Tensor)
    assert torch.equal(weight, expected)


def test_slices_that_cut_groups_are_refused_with_the_remedy(tmp_path: Path) -> None:
    for method in ("gptq", "awq"):
        tiny(tmp_path, method, 4, 32, 1)
        with (
            open_checkpoint(tmp_path) as checkpoint,
            pytest.raises(UnsupportedModelError, match=r"inputs, 0 to 15 of 64, are not whole groups of 32: use fewer"),
        ):
            checkpoint.weight(Q_PROJ, ALL, slice(0, 16))


def test_gptq_in_another_order_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    tiny(tmp_path, "gptq", 4, 32, 1)
    tensors = load_file(tmp_path / "model.safetensors")
    turned = {name: tensor.flip(0) for name, tensor in tensors.items() if name.endswith(".g_idx")}
    save_file(tensors | turned, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "GPTQ with its inputs in another order" in str(describe(tmp_path).problem)


def test_gptq_in_another_order_is_refused(tmp_path: Path) -> None:
    tiny(tmp_path, "gptq", 4, 32, 1)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = Q_PROJ.removesuffix(".weight") + ".g_idx"
    tensors[name] = tensors[name].flip(0)
    save_file(tensors, path)
    with pytest.raises(UnsupportedModelError, match=r"q_proj: GPTQ with its inputs in another order.*desc_act=False"):
        load_decoder(tmp_path, torch.float32)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (
            {"quant_method": "bitsandbytes"},
            "quantised by bitsandbytes, but they are plain numbers: remove quantization_config from config.json to serve them",
        ),
        ({"quant_method": "gptq", "bits": 3}, "GPTQ of 3 bits is not supported, only 4 and 8"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "GPTQ in the marlin layout"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ of 4 bits in version gemv"),
        (
            {"quant_method": "gptq", "bits": 4},
            "says that the weights are quantised by gptq, but no tensor is stored so",
        ),
        ({"quant_method": "gptq", "bits": "4"}, "GPTQ of '4' bits is not supported"),
        ({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {}}}, "has a transform_config"),
        ({"bits": 4}, "quantised by an unnamed method, but they are plain numbers"),
    ],
)
def test_other_formats_are_named(quantization: dict[str, object], message: str, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, seed=5)
    edit_config(tmp_path, quantization_config=quantization)
    with pytest.raises(UnsupportedModelError, match=message):
        load_decoder(tmp_path, torch.float32)


def test_tensors_that_no_known_format_has_are_not_called_plain(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, seed=5)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "model.layers.0.mlp.up_proj.tables": torch.ones(2)}, tmp_path / "model.safetensors")
    edit_config(tmp_path, quantization_config={"quant_method": "higgs"})
    with pytest.raises(
        UnsupportedModelError, match="quantised by higgs, which is not supported: only specgrove, gptq, awq"
    ):
        load_decoder(tmp_path, torch.float32)


@pytest.mark.parametrize(
    ("method", "name", "content"),
    [
        ("gptq", "quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False, "sym": False}),
        ("awq", "quant_config.json", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
    ],
)
def test_the_files_that_said_it_before_config_json_did_count(
    method: str, name: str, content: dict[str, Any], tmp_path: Path
) -> None:
    values = tiny(tmp_path, method, 4, 32, 1)
    edit_config(tmp_path, quantization_config=None)
    with pytest.raises(UnsupportedModelError, match=r"stored by GPTQ or AWQ, but config\.json doesn't say how"):
        load_decoder(tmp_path, torch.float32)
    (tmp_path / name).write_text(json.dumps(content))
    with open_checkpoint(tmp_path) as checkpoint:
        assert torch.equal(values_of(checkpoint.weight(Q_PROJ, ALL, ALL)), values[Q_PROJ])
    assert quantization_of(tmp_path) == f"{method}, 4 bits"
    load_decoder(tmp_path, torch.float32)


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_parts_that_are_no_matrices_are_named(part: str, method: str, tmp_path: Path) -> None:
    tiny(tmp_path, method, 4, 32, 1)
    tensors, name = load_file(tmp_path / "model.safetensors"), f"{Q_PROJ.removesuffix('weight')}{part}"
    save_file({**tensors, name: tensors[name].flatten()}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=rf"q_proj\.{part} has the shape \[\d+\]"):
        load_decoder(tmp_path, torch.float32)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_scales_that_are_no_numbers_are_named(method: str, tmp_path: Path) -> None:
    tiny(tmp_path, method, 4, 32, 1)
    tensors, name = load_file(tmp_path / "model.safetensors"), Q_PROJ.removesuffix("weight") + "scales"
    tensors[name][0, 3] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"the scales of .*q_proj\.weight hold NaN or infinity"):
        load_decoder(tmp_path, torch.float32)


def test_a_method_that_packs_as_gptq_does_is_named(tmp_path: Path) -> None:
    tiny(tmp_path, "gptq", 4, 32, 1)
    edit_config(tmp_path, quantization_config={"quant_method": "auto-round", "bits": 4})
    with pytest.raises(
        UnsupportedModelError, match=r"names the quant_method auto-round, which is not supported: if the tensors"
    ):
        load_decoder(tmp_path, torch.float32)


def symmetric(folder: Path, bits: int, stored_zero: int, **quantization: object) -> dict[str, torch.Tensor]:
    """GPTQ whose zeros are in the middle of the codes, stored as ``stored_zero``; returns what the weights stand for."""
    middle = 1 << (bits - 1)
    values = tiny(folder, "gptq", bits, 32, middle - stored_zero, low=1 if bits == 8 else 0, zero_spread=0)
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": bits, "group_size": 32, **quantization})
    return values


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sym", [{"sym": True}, {}])
@pytest.mark.parametrize("marked", ["gptq", "gptq_v2", None])
@pytest.mark.parametrize("offset", [0, 1])
def test_zeros_of_symmetric_gptq_are_what_the_tensors_say(
    offset: int, marked: str | None, sym: dict[str, bool], bits: int, tmp_path: Path
) -> None:
    marker = {} if marked is None else {"checkpoint_format": marked}
    values = symmetric(tmp_path, bits, (1 << (bits - 1)) - offset, **sym, **marker)
    with open_checkpoint(tmp_path) as checkpoint:
        for name in filter(is_quantised, values):
            assert torch.equal(values_of(checkpoint.weight(name, ALL, ALL)), values[name])


def test_symmetric_gptq_with_other_zeros_is_refused_before_loading(tmp_path: Path) -> None:
    tiny(tmp_path, "gptq", 4, 32, 1)
    edit_config(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True})
    with (
        pytest.raises(
            UnsupportedModelError, match=r"sym=true, so zeros should be stored as 7 \(gptq\) or 8 \(gptq_v2\)"
        ),
        open_checkpoint(tmp_path),
    ):
        pass


def test_bits_of_gptq_go_by_the_tensors(tmp_path: Path) -> None:
    """As ``dynamic`` of GPTQModel leaves them: 8 bits for some modules, some not quantised at all."""
    for bits in (4, 8):
        values = tiny(tmp_path / str(bits), "gptq", bits, 32, 1, low=1 if bits == 8 else 0)
        if bits == 4:
            of_4 = values
    tensors, of_8 = load_file(tmp_path / "4" / "model.safetensors"), load_file(tmp_path / "8" / "model.safetensors")
    expected, plain = dict(of_4), "model.layers.1.mlp.up_proj."
    for name in list(tensors):
        if "down_proj" in name:
            tensors[name] = of_8[name]
            expected[name.rpartition(".")[0] + ".weight"] = values[name.rpartition(".")[0] + ".weight"]
        if name.startswith(plain):
            del tensors[name]
    tensors[plain + "weight"] = expected[plain + "weight"]
    save_file(tensors, tmp_path / "4" / "model.safetensors")
    dynamic = {r"+:.*down_proj": {"bits": 8}, r"-:.*layers\.1\.mlp\.up_proj": {}}
    edit_config(tmp_path / "4", quantization_config={"quant_method": "gptq", "bits": 4, "dynamic": dynamic})
    with open_checkpoint(tmp_path / "4") as checkpoint:
        for name in filter(is_quantised, expected):
            assert torch.equal(values_of(checkpoint.weight(name, ALL, ALL)), expected[name]), name
    load_decoder(tmp_path / "4", torch.float32)


def test_weights_of_different_kinds_are_stacked_dequantised() -> None:
    one = QuantizedWeight(torch.ones(2, 8, dtype=torch.int8), torch.full((2, 1), 0.5), None, 8)
    other = QuantizedWeight(torch.ones(2, 8, dtype=torch.uint8), torch.full((2, 2), 0.5), torch.ones(2, 2), 4)
    stacked = stack([one, other, torch.full((1, 8), 3.0)])
    assert isinstance(stacked, torch.Tensor)
    assert stacked[:, 0].tolist() == [0.5, 0.5, 1.5, 1.5, 3.0]
