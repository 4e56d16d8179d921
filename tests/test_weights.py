"""Model files: what is saved comes back, and everything that is no model of ours is refused with a reason."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cascade_kp import weights
from cascade_kp.config import CascadeConfig, NetConfig, RegionConfig, TrunkConfig, to_dict
from cascade_kp.errors import CascadeError, ModelError
from cascade_kp.models.cascade import Cascade
from cascade_kp.schemes import Scheme, load_scheme
from cascade_kp.weights import FORMAT_VERSION, ModelInfo, available_models, load_model, model_path, save_model

NET = NetConfig(input_px=32, trunk=TrunkConfig(width=4, stages=3), head_width=4)
DIRECT = NetConfig(input_px=32, trunk=TrunkConfig(width=4, stages=2), head="direct", head_width=2)
# Regions in an order that is neither the scheme's nor the alphabet's.
REGIONS = {"mouth": RegionConfig(NET), "left_eye": RegionConfig(NET, mirror=True), "nose": RegionConfig(DIRECT)}
CONFIG = CascadeConfig(coarse=NET, margin=1.4, passes=2, regions=REGIONS, boxes=DIRECT, region_boxes="boxes")


def make(config=CONFIG, scheme="ibug68", seed=0):
    torch.manual_seed(seed)
    cascade = Cascade(config, load_scheme(scheme))
    for value in cascade.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.randn_like(value) * 0.1)
    return cascade.eval()


def make_info(cascade, **changes):
    info = ModelInfo(
        name="tiny",
        scheme=cascade.scheme,
        config=cascade.config,
        recipe={"name": "r", "steps": 10, "lr": [0.1, 0.01], "nested": {"on": True, "text": 'a "quote" é'}},
        data={"300w": {"count": 3148, "sha256": "ab"}},
        metrics=({"nme": 3.14, "protocol": {"norm": "inter_ocular", "box": "truth"}}, {"auc": 0.5}),
        licence="Apache-2.0; data: research only",
        history=({"what": "trained"}, {"what": "retrained", "region": "mouth"}),
    )
    return replace(info, **changes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A valid model file; never written to."""
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    cascade = make()
    save_model(path, cascade, make_info(cascade))
    return path


def split(path):
    """Header, its length and the tensors' bytes of a safetensors file."""
    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), length, data[8 + length :]


def edited(saved, path, change):
    """A copy of the file whose own header was changed, and nothing else."""
    header, _, body = split(saved)
    own = json.loads(header["__metadata__"]["cascade_kp"])
    own = change(own) or own
    header["__metadata__"]["cascade_kp"] = json.dumps(own)
    return written(path, header, body)


def written(path, header, body):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def with_tensors(saved, path, change):
    """A copy of the file whose tensors were changed, with the header it had."""
    tensors = load_file(saved)
    change(tensors)
    save_file(tensors, path, split(saved)[0]["__metadata__"])
    return path


def refusal(path):
    """The message of a refused file; no other error may come, and the message says what was expected and got."""
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "expected" in message
    assert "got" in message
    assert str(path) in message
    return message


# ------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("F16", torch.float16), ("F32", torch.float32)])
@pytest.mark.parametrize("config", [CONFIG, CascadeConfig(coarse=DIRECT)], ids=["regions", "coarse only"])
def test_every_tensor_comes_back(tmp_path, config, dtype, torch_dtype):
    cascade = make(config)
    path = tmp_path / "m.safetensors"
    save_model(path, cascade, make_info(cascade), dtype)
    stored = load_file(path)
    assert {value.dtype for value in stored.values()} == {torch_dtype}
    loaded, _ = load_model(path)
    state = loaded.state_dict()
    assert list(state) == list(cascade.state_dict())
    for key, value in cascade.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert key not in stored
            assert state[key] == 0
        else:
            assert state[key].dtype == torch.float32
            assert torch.equal(state[key], value.to(torch_dtype).float()), key
    assert set(stored) == {key for key in state if not key.endswith("num_batches_tracked")}


def test_the_loaded_cascade_is_ready_for_inference_and_says_the_same(tmp_path):
    cascade = make()
    save_model(tmp_path / "m.safetensors", cascade, make_info(cascade), "F32")
    loaded, _ = load_model(str(tmp_path / "m.safetensors"))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.rand(2, 3, 64, 64) * 255
    boxes = torch.tensor([[10.0, 12.0, 50.0, 54.0], [5.0, 5.0, 60.0, 60.0]])
    with torch.inference_mode():
        for one, other in zip(cascade(images, boxes), loaded(images, boxes), strict=True):
            assert torch.equal(one, other)


def test_a_second_round_trip_changes_no_bit(saved, tmp_path):
    cascade, info = load_model(saved)
    save_model(tmp_path / "again.safetensors", cascade, info)
    one, other = load_file(saved), load_file(tmp_path / "again.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert split(saved)[0] == split(tmp_path / "again.safetensors")[0]


def test_the_info_comes_back_whole(saved):
    _, info = load_model(saved)
    expected = make_info(make())
    assert info == expected
    assert list(info.config.regions) == list(REGIONS)  # dicts are equal in any order
    assert info.scheme.to_dict() == load_scheme("ibug68").to_dict()
    assert list(info.scheme.regions) == list(load_scheme("ibug68").regions)


def test_the_order_of_the_regions_is_kept_whatever_it_is(tmp_path):
    for names in (list(REGIONS), list(reversed(REGIONS))):
        cascade = make(replace(CONFIG, regions={name: REGIONS[name] for name in names}))
        save_model(tmp_path / "m.safetensors", cascade, make_info(cascade))
        loaded, info = load_model(tmp_path / "m.safetensors")
        assert list(info.config.regions) == names == list(loaded.regions)


def test_scheme_and_configuration_are_the_cascades_own(tmp_path):
    cascade = make(CascadeConfig(coarse=NET), scheme="kaggle15")
    save_model(tmp_path / "m.safetensors", cascade, make_info(make()))
    _, info = load_model(tmp_path / "m.safetensors")
    assert info.scheme.name == "kaggle15"
    assert info.config == cascade.config


def test_a_scheme_that_is_not_embedded_travels_in_the_file(tmp_path):
    scheme = Scheme(name="lips", keypoints=("left_end", "right_end", "top"), regions={"lips": (0, 1, 2)})
    cascade = Cascade(CascadeConfig(coarse=NET, regions={"lips": RegionConfig(NET)}), scheme).eval()
    save_model(tmp_path / "lips.safetensors", cascade, ModelInfo("lips", scheme, cascade.config))
    _, info = load_model(tmp_path / "lips.safetensors")
    assert info.scheme.to_dict() == scheme.to_dict()
    assert (info.recipe, info.data, info.metrics, info.licence, info.history) == ({}, {}, (), "", ())


def test_the_header_is_one_json_string_with_the_version(saved):
    header, _, _ = split(saved)
    assert list(header["__metadata__"]) == ["cascade_kp"]
    own = json.loads(header["__metadata__"]["cascade_kp"])
    assert own["format_version"] == FORMAT_VERSION
    assert own["config"] == to_dict(CONFIG)


@pytest.mark.parametrize("low", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(saved, tmp_path, low):
    cascade, info = load_model(saved)
    _, length, _ = split(saved)
    padding = (low - length) % 65536
    save_model(tmp_path / "m.safetensors", cascade, replace(info, licence=info.licence + "x" * padding))
    assert (tmp_path / "m.safetensors").read_bytes()[:2] == low.to_bytes(2, "little")
    _, again = load_model(tmp_path / "m.safetensors")
    assert again.licence.endswith("xx")


# ------------------------------------------------------------------------------------------ names


def test_embedded_models_go_by_name():
    assert "ibug68" in available_models()
    assert model_path("ibug68").is_file()
    cascade, info = load_model("ibug68")
    assert info.name == "ibug68"
    assert len(info.scheme) == 68
    assert set(cascade.regions) <= set(info.scheme.regions)
    assert model_path(model_path("ibug68")) == model_path("ibug68")


def test_an_unknown_name_is_refused_with_the_nearest_and_all_known():
    with pytest.raises(ModelError, match="did you mean 'ibug68'") as caught:
        load_model("ibug86")
    for name in available_models():
        assert name in str(caught.value)
    assert "did you mean" not in refusal("nothing like it")


@pytest.mark.parametrize("name", ["", "no/such/file.safetensors", "\0"])
def test_a_missing_path_is_refused(name):
    with pytest.raises(ModelError, match=r"expected an embedded model .* or the path") as caught:
        load_model(name)
    assert repr(name) in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    assert "folder" in refusal(tmp_path)


@pytest.mark.parametrize("value", [None, 5, ["ibug68"], np.zeros(3)])
def test_what_is_no_name_at_all_is_refused(value):
    with pytest.raises(ModelError, match=f"expected .* got {type(value).__name__}"):
        load_model(value)


# ------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("size", range(9))
def test_files_of_a_few_bytes_are_refused(saved, tmp_path, size):
    path = tmp_path / "m.safetensors"
    for content in (saved.read_bytes()[:size], b"\0" * size, b"\xff" * size):
        path.write_bytes(content)
        refusal(path)


def test_a_truncated_file_is_refused_wherever_it_ends(saved, tmp_path):
    data = saved.read_bytes()
    _, length, body = split(saved)
    ends = [8, 9, 8 + length // 3, 8 + length - 1, 8 + length, 8 + length + 1, 8 + length + len(body) // 2]
    path = tmp_path / "m.safetensors"
    for end in [*ends, len(data) - 2, len(data) - 1]:
        path.write_bytes(data[:end])
        refusal(path)
    path.write_bytes(data + b"\0")
    refusal(path)


def test_a_flipped_bit_in_the_header_is_refused_or_harmless(saved, tmp_path):
    data = bytearray(saved.read_bytes())
    _, length, _ = split(saved)
    names = set(load_file(saved))
    path = tmp_path / "m.safetensors"
    generator = np.random.default_rng(0)
    # Every bit of the length, and a sample of the rest: a letter of the licence may change unnoticed, a name may not.
    bits = [*range(64), *(64 + generator.integers(0, 8 * length, 80)).tolist()]
    refused = 0
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        try:
            cascade, _ = load_model(path)
        except ModelError as error:
            refused += 1
            assert "expected" in str(error)  # noqa: PT017 (either way is right)
        else:
            assert names <= set(cascade.state_dict())
    assert refused >= 64


def test_random_bytes_are_refused(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "m.safetensors"
    for size in (8, 9, 100, 10_000):
        noise = generator.bytes(size)
        for content in (noise, (size // 2).to_bytes(8, "little") + noise):
            path.write_bytes(content)
            refusal(path)


def test_a_header_is_limited(saved, tmp_path):
    data = saved.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + length], data[8 + length :]
    path = tmp_path / "m.safetensors"
    most = 16 << 20
    for size in (most, most + 8):  # spaces at a header's end are allowed
        path.write_bytes(size.to_bytes(8, "little") + header.ljust(size) + tensors)
        if size == most:
            load_model(path)
        else:
            assert "expected a safetensors file" in refusal(path)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_never_run(tmp_path, protocol):
    path, marker = tmp_path / "m.safetensors", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Payload(marker), protocol) + b"\0" * 4096)
    refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_never_run(tmp_path, zipped):
    path, marker = tmp_path / "m.safetensors", tmp_path / "ran"
    torch.save({"a": torch.zeros(3), "b": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
    assert "pickle" in refusal(path)
    assert not marker.exists()


# ------------------------------------------------------------------------------------------ not ours


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_another_safetensors_file_is_refused(tmp_path, metadata):
    path = tmp_path / "m.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, path, metadata)
    assert "header" in refusal(path)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 1000, 0, -1, True, 1.0, "1", None])
def test_another_format_version_is_refused(saved, tmp_path, version):
    path = edited(saved, tmp_path / "m.safetensors", lambda own: own.update(format_version=version))
    assert f"expected format version {FORMAT_VERSION} or older, got {version!r}" in refusal(path)


@pytest.mark.parametrize("text", ["", "no json", "{", "[]", "3", "null", '"text"', "[" * 100_000])
def test_a_header_that_is_no_object_is_refused(saved, tmp_path, text):
    header, _, body = split(saved)
    header["__metadata__"]["cascade_kp"] = text
    refusal(written(tmp_path / "m.safetensors", header, body))


@pytest.mark.parametrize(
    "key", ["format_version", "name", "scheme", "config", "recipe", "data", "metrics", "licence", "history"]
)
def test_a_missing_key_is_named(saved, tmp_path, key):
    assert key in refusal(edited(saved, tmp_path / "m.safetensors", lambda own: own.pop(key) and None))


@pytest.mark.parametrize("key", ["scheme", "config", "recipe", "data", "metrics", "history"])
@pytest.mark.parametrize("value", [None, 3, "text", [[1]]])
def test_a_value_of_another_type_never_raises_anything_else(saved, tmp_path, key, value):
    path = edited(saved, tmp_path / "m.safetensors", lambda own: own.update({key: value}))
    try:
        load_model(path)
    except ModelError as error:
        assert "expected" in str(error)  # noqa: PT017 (a list of anything is a list)
    else:
        assert key in ("metrics", "history")


def test_a_scheme_that_contradicts_itself_is_refused(saved, tmp_path):
    def change(own):
        own["scheme"]["flip"][0] = 1

    assert "flip" in refusal(edited(saved, tmp_path / "m.safetensors", change))


def test_an_unknown_key_of_the_configuration_is_refused_with_the_nearest(saved, tmp_path):
    def change(own):
        own["config"]["regions"]["mouth"]["net"]["trunk"]["widht"] = 4

    message = refusal(edited(saved, tmp_path / "m.safetensors", change))
    assert "regions.mouth.net.trunk" in message
    assert "did you mean 'width'" in message


def test_a_region_that_the_scheme_has_not_is_refused(saved, tmp_path):
    def change(own):
        own["config"]["regions"]["ear"] = own["config"]["regions"].pop("mouth")

    assert "ear" in refusal(edited(saved, tmp_path / "m.safetensors", change))


def test_a_mirrored_region_without_a_partner_is_refused(saved, tmp_path):
    def change(own):
        own["config"]["regions"]["mouth"]["mirror"] = True

    assert "regions.mouth.mirror" in refusal(edited(saved, tmp_path / "m.safetensors", change))


# ------------------------------------------------------------------------------------------ tensors


def test_a_missing_tensor_is_named(saved, tmp_path):
    path = with_tensors(saved, tmp_path / "m.safetensors", lambda t: t.pop("regions.mouth.fusion"))
    assert "lacks 'regions.mouth.fusion'" in refusal(path)


def test_a_surplus_tensor_is_named(saved, tmp_path):
    path = with_tensors(saved, tmp_path / "m.safetensors", lambda t: t.update(extra=torch.zeros(1)))
    assert "'extra'" in refusal(path)


def test_a_tensor_of_another_shape_is_named_with_both(saved, tmp_path):
    def change(tensors):
        tensors["coarse.reference"] = torch.zeros(2, 68)

    message = refusal(with_tensors(saved, tmp_path / "m.safetensors", change))
    assert "'coarse.reference'" in message
    assert "[68, 2]" in message
    assert "[2, 68]" in message


@pytest.mark.parametrize(("dtype", "name"), [(torch.int64, "I64"), (torch.uint8, "U8"), (torch.float64, "F64")])
def test_a_tensor_of_another_dtype_is_named(saved, tmp_path, dtype, name):
    def change(tensors):
        tensors["coarse.reference"] = tensors["coarse.reference"].to(dtype)

    message = refusal(with_tensors(saved, tmp_path / "m.safetensors", change))
    assert "'coarse.reference'" in message
    assert name in message


@pytest.mark.parametrize(
    "config",
    [
        {"coarse": {"input_px": 96, "design": {"name": "mlp", "dense": [1] * 100_000}}},
        {"coarse": {}, "regions": {f"r{i}": {"net": {}} for i in range(1000)}},
    ],
    ids=["layers", "regions"],
)
def test_a_header_that_asks_for_ever_so_many_networks_is_refused_before_they_are_built(
    saved, tmp_path, monkeypatch, config
):
    monkeypatch.setattr(weights, "Cascade", lambda *_: pytest.fail("built"))
    path = edited(saved, tmp_path / "m.safetensors", lambda own: own.update(config=config))
    assert "expected at most" in refusal(path)


@pytest.mark.parametrize("key", ["name", "licence"])
@pytest.mark.parametrize("text", ["\ud800", "a\x1b]0;title\x07", "x" * 100_001])
def test_texts_that_would_be_printed_are_plain(saved, tmp_path, key, text):
    path = edited(saved, tmp_path / "m.safetensors", lambda own: own.update({key: text}))
    assert f"expected a {key} of at most {weights._MOST_LETTERS[key]:,} printable letters" in refusal(path)
    cascade = make()
    with pytest.raises(ModelError, match="printable letters"):
        save_model(tmp_path / "new.safetensors", cascade, replace(make_info(cascade), **{key: text}))
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(saved, tmp_path, value):
    def change(tensors):
        tensors["regions.nose.sigma_scale"][2] = value

    assert "'regions.nose.sigma_scale'" in refusal(with_tensors(saved, tmp_path / "m.safetensors", change))


@pytest.mark.parametrize("width", [64, 4096, 10**6, 10**9, 10**15, 10**30])
@pytest.mark.parametrize("key", ["width", "head_width"])
def test_an_absurd_width_is_refused_without_memory(saved, tmp_path, monkeypatch, width, key):
    def change(own):
        net = own["config"]["coarse"]
        (net["trunk"] if key == "width" else net)[key] = width

    built = []

    def spy(config, scheme):
        built.append(Cascade(config, scheme))
        return built[-1]

    monkeypatch.setattr(weights, "Cascade", spy)
    path = edited(saved, tmp_path / "m.safetensors", change)
    refusal(path)
    assert len(built) <= 1
    for cascade in built:
        assert all(value.is_meta for value in cascade.state_dict().values())


# ------------------------------------------------------------------------------------------ saving


def listing(folder):
    return sorted(p.name for p in folder.rglob("*"))


@pytest.mark.parametrize("where", ["missing/m.safetensors", "file/m.safetensors", "folder", ""])
def test_a_place_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("here")
    (tmp_path / "folder").mkdir()
    cascade = make(CascadeConfig(coarse=DIRECT))
    before = listing(tmp_path)
    with pytest.raises(ModelError, match=r"expected .* got"):
        save_model(where, cascade, make_info(cascade))
    assert listing(tmp_path) == before


def test_an_unknown_dtype_is_refused(tmp_path):
    cascade = make(CascadeConfig(coarse=DIRECT))
    with pytest.raises(ModelError, match=r"dtype: expected .*F16.* got 'I8'"):
        save_model(tmp_path / "m.safetensors", cascade, make_info(cascade), "I8")


@pytest.mark.parametrize("failure", ["nan", "overflow", "no json", "disk", "rename"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, tmp_path, monkeypatch, failure):
    path = tmp_path / "m.safetensors"
    path.write_bytes(saved.read_bytes())
    cascade = make(CascadeConfig(coarse=DIRECT))
    info = make_info(cascade)
    if failure == "nan":
        cascade.coarse.reference[0] = float("nan")
    elif failure == "overflow":
        cascade.coarse.reference[0] = 1e6  # finite, but not as F16
    elif failure == "no json":
        info = replace(info, metrics=({"nme": np.float32(3)},))
    elif failure == "disk":

        def full(_tensors, target, _metadata):
            Path(target).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(weights, "save_file", full)
    else:

        def stuck(_self, _target):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "replace", stuck)
    with pytest.raises(ModelError, match=r"expected .* got"):
        save_model(path, cascade, info)
    assert path.read_bytes() == saved.read_bytes()
    assert listing(tmp_path) == ["m.safetensors"]


def test_an_existing_file_is_replaced_whole(saved, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(saved.read_bytes() * 2)
    cascade = make(CascadeConfig(coarse=DIRECT), scheme="kaggle15")
    save_model(path, cascade, make_info(cascade))
    assert load_model(path)[1].scheme.name == "kaggle15"
    assert listing(tmp_path) == ["m.safetensors"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_every_refusal_is_one_of_the_family(tmp_path):
    with pytest.raises(CascadeError):
        load_model(tmp_path / "missing")


def test_changed_weights_are_refused_naming_their_part(saved, tmp_path):
    def change(tensors):
        tensors["regions.nose.sigma_scale"][2] += 1

    text = refusal(with_tensors(saved, tmp_path / "m.safetensors", change))
    assert "expected the weights that its header has the SHA-256 of, got others in 'regions.nose'" in text
