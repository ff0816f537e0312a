"""Probe, aligner and state classifier: labels follow the pictures, tiny sets are learnt, files round-trip."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.model.face_reader import FaceReader, ReaderConfig, export_aligner, load_reader, save_reader
from engine.portrait.crop import canonical_crop
from engine.portrait.landmarks import INDEX, LANDMARKS
from engine.types import AvatarState
from training.data.truth import ARKIT_UNITS, UNIT
from training.instruments import augment, patches, states
from training.instruments.aligner import AlignerStage, align, crop_overlap
from training.instruments.patches import PatchConfig, PatchReader, PatchStage
from training.instruments.probe import PROBE, Probe, ProbeStage, Reading
from training.run import Batch

_SMALL = ReaderConfig(px=32, widths=(8, 8, 16), squeezed=8, hidden=32)


def _dots(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Dark pictures with one bright dot; every landmark lies on it."""
    torch.manual_seed(0)
    place = torch.rand(count, 1, 2) * 0.4 + 0.3
    line = (torch.arange(side) + 0.5) / side
    squared = (line[None, None] - place[:, :, :1]) ** 2 + (line[None, :, None] - place[:, :, 1:]) ** 2
    return (torch.exp(-squared / 0.001) * 2 - 1)[:, None].expand(-1, 3, -1, -1), place.expand(-1, len(LANDMARKS), -1)


def test_recrop_moves_the_landmarks_with_the_picture() -> None:
    image, points = _dots(64, 96)
    cut, moved = augment.recrop(image, points, 96, shift=0.1, scale=(0.8, 1.3), degrees=15.0)
    inside = ((moved[:, 0] > 0.1) & (moved[:, 0] < 0.9)).all(1)
    assert inside.float().mean() > 0.8
    there = torch.nn.functional.grid_sample(cut, moved[:, None, :1] * 2 - 1, align_corners=False)[:, 0, 0, 0]
    assert there[inside].min() > 0.7
    assert (moved - points).abs().mean() > 0.03


def test_mirror_exchanges_left_and_right() -> None:
    image, points = _dots(8, 32)
    points = points.clone()
    points[:, INDEX["mouth_left"], 0] += 0.1
    labels = {
        "landmarks": points,
        "units": torch.eye(len(ARKIT_UNITS))[UNIT["mouthLeft"]].expand(8, -1),
        "head": torch.tensor([[3.0, 4.0, 5.0]]).expand(8, -1),
        "gaze": torch.tensor([[6.0, 7.0]]).expand(8, -1),
    }
    flipped, out = augment.mirror(image, labels, rate=1.1)
    assert torch.equal(flipped, image.flip(-1))
    torch.testing.assert_close(out["landmarks"][:, INDEX["mouth_right"], 0], 1 - points[:, INDEX["mouth_left"], 0])
    assert out["units"][0].argmax() == UNIT["mouthRight"]
    assert out["head"][0].tolist() == [-3.0, 4.0, -5.0] and out["gaze"][0].tolist() == [-6.0, 7.0]


def test_every_picture_change_keeps_shape_and_is_mild() -> None:
    image, _ = _dots(16, 64)
    image = image.clone()
    for change in (lambda x: augment.colours(x, 0.5), augment.soften, augment.quantise, augment.greyscale,
                   lambda x: augment.gamma(x, 0.5), lambda x: augment.add_noise(x, 0.05)):  # fmt: skip
        changed = change(image)
        assert changed.shape == image.shape and torch.isfinite(changed).all()
        assert (changed - image).abs().mean() < 0.7


def test_quantise_with_a_fine_step_returns_the_picture() -> None:
    image = torch.rand(4, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(augment.quantise(image, most=0.0201), image, atol=0.06, rtol=0)


def _overfit(stage: torch.nn.Module, batch: Batch, steps: int) -> tuple[float, float]:
    optimizer = torch.optim.Adam(stage.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        loss, _ = stage(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def test_aligner_overfits_a_tiny_batch_and_finds_the_crop() -> None:
    image, points = _dots(8, 32)
    corners = torch.zeros(len(LANDMARKS), 2)
    for name, x, y in (("forehead", 0, -0.2), ("chin", 0, 0.2), ("cheek_right", -0.15, 0), ("cheek_left", 0.15, 0)):
        corners[INDEX[name]] = torch.tensor((x, y))
    points = points + corners
    reader = FaceReader(_SMALL)
    first, last = _overfit(AlignerStage(reader), {"image": image, "landmarks": points}, 150)
    assert last < 0.15 * first
    pixels = ((image[0] + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    true_crop = canonical_crop(points[0].numpy() * 32)
    whole = type(true_crop)(0.0, 0.0, 32.0)
    crop, found = align(reader.eval(), pixels, whole, passes=1)
    assert crop_overlap(crop, true_crop) > 0.8
    assert np.abs(found.numpy() - points[0].numpy() * 32).mean() < 2.0


def test_probe_overfits_a_tiny_batch() -> None:
    image, points = _dots(8, 32)
    batch = {"image": image, "landmarks": points, "units": torch.rand(8, 1).expand(-1, len(ARKIT_UNITS)),
             "head": torch.randn(8, 3) * 5, "gaze": torch.randn(8, 2) * 5}  # fmt: skip
    reader = FaceReader(ReaderConfig(px=32, outputs=PROBE.outputs, widths=(8, 8, 16), squeezed=8, hidden=64))
    first, last = _overfit(ProbeStage(reader), batch, 200)
    assert last < 0.25 * first
    seen = Probe(reader, {}).read(((image + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy())
    assert np.abs(seen.landmarks - points.numpy()).mean() < 0.03
    assert np.abs(seen.units - batch["units"].numpy()).mean() < 0.15


def test_reader_round_trips_and_exports(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    reader = FaceReader(_SMALL)
    save_reader(reader, tmp_path / "aligner.safetensors", {"errors": {"iou": 0.9}})
    loaded, meta = load_reader(tmp_path / "aligner.safetensors")
    assert meta == {"errors": {"iou": 0.9}} and loaded.config == _SMALL
    export_aligner(loaded, tmp_path / "aligner.onnx")
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    session = ort.InferenceSession(str(tmp_path / "aligner.onnx"))
    (points,) = session.run(["landmarks"], {"image": image.numpy()})
    assert points.shape == (1, len(LANDMARKS), 2)
    np.testing.assert_allclose(points, loaded.landmarks(image).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(points, reader.landmarks(image).detach().numpy(), atol=5e-3)


def test_shipped_sizes_are_small() -> None:
    weights = sum(p.numel() for p in FaceReader(PROBE).parameters())
    assert 2 * weights < 2_000_000


def _performance(state: AvatarState, seed: int, frames: int = 120) -> Reading:
    """Speaking opens the mouth, listening nods, idle looks about; noise on everything."""
    rng = np.random.default_rng([seed, int(state)])
    time_s = np.arange(frames) / 25
    landmarks = rng.normal(0.5, 0.002, (frames, len(LANDMARKS), 2))
    landmarks[:, INDEX["eye_left_outer"], 0] += 0.3
    head, gaze = rng.normal(0, 0.3, (frames, 3)), rng.normal(0, 1, (frames, 2))
    if state == AvatarState.SPEAKING:
        landmarks[:, INDEX["lip_lower_inner"], 1] += 0.04 * (1 + np.sin(2 * np.pi * 3 * time_s + rng.uniform(0, 6)))
    elif state == AvatarState.LISTENING:
        head[:, 1] += 4 * np.sin(2 * np.pi * 1.5 * time_s + rng.uniform(0, 6))
    else:
        gaze[:, 0] += 9 * np.sign(np.sin(2 * np.pi * 0.8 * time_s + rng.uniform(0, 6)))
    units = rng.normal(0, 0.03, (frames, len(ARKIT_UNITS)))
    return Reading(*(a.astype(np.float32) for a in (landmarks, units, head, gaze)))


def test_state_classifier_separates_states_and_round_trips(tmp_path: Path) -> None:
    def data(seeds: range) -> states.Windows:
        return states.join(
            states.windows(_performance(s, i), np.full(120, s, np.int8)) for i in seeds for s in AvatarState
        )

    namer = states.train_namer(data(range(12)), steps=120)
    test = data(range(50, 56))
    assert states.accuracy(namer, test) > 0.95
    states.save_namer(namer, tmp_path / "states.safetensors", {"errors": {}})
    again, _ = states.load_namer(tmp_path / "states.safetensors")
    assert np.array_equal(again.name(test.features), namer.name(test.features))


def test_windows_with_two_states_do_not_count() -> None:
    state = np.repeat([0, 1], 60).astype(np.int8)
    cut = states.windows(_performance(AvatarState.SPEAKING, 0), state)
    assert cut.pure.any() and not cut.pure.all()
    assert set(cut.state[cut.pure].tolist()) == {0, 1}


def _lying_face() -> np.ndarray:
    """Landmarks [1, 28, 2] of a head that lies on its side, its top towards the left edge."""
    points = np.full((1, len(LANDMARKS), 2), 0.5, np.float32)
    eyes = (("eye_left_outer", 0.25), ("eye_left_inner", 0.35), ("eye_right_inner", 0.65), ("eye_right_outer", 0.75))
    for name, y in eyes:
        points[0, INDEX[name]] = (0.4, y)
    return points


def test_patches_are_upright() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, :51] = 200
    points = _lying_face()
    distance = patches.eye_distance(points)
    np.testing.assert_allclose(distance, 0.4, atol=1e-5)
    eye = np.array(patches.cut_patches(image[None], points, distance, PatchConfig(eye_up=0.0)).eyes[0, 1], int)
    assert eye[:10].min() == 200 and eye[14:].max() == 0


def test_close_look_sees_a_lid_of_four_pixels(tmp_path: Path) -> None:
    """Grey faces with dark eyes; a closed one has none. Faces differ more among each other than open from shut."""
    rng = np.random.default_rng(0)
    points = np.repeat(_lying_face(), 64, 0)
    shut = rng.random(64) < 0.5
    images = np.repeat(rng.integers(90, 220, (64, 1, 1, 3)), 128, 1).repeat(128, 2).astype(np.uint8)
    still = images.copy()
    for y in (38, 90):
        still[:, y - 3 : y + 3, 49:53] = 30
        images[~shut, y - 3 : y + 3, 49:53] = 30
    config = PatchConfig(width=8, hidden=16)
    parts = [
        part
        for pictures in (images, still)
        for part in patches.cut_patches(pictures, points, patches.eye_distance(points), config).tensors()
    ]
    change = torch.zeros(64, len(ARKIT_UNITS))
    change[shut, UNIT["eyeBlinkLeft"]] = change[shut, UNIT["eyeBlinkRight"]] = 1.0
    batch = dict(zip(("eyes", "mouth", "still_eyes", "still_mouth"), parts, strict=True)) | {"change": change}
    torch.manual_seed(0)
    close = PatchReader(config)
    _overfit(PatchStage(close), batch, 60)
    whole = FaceReader(ReaderConfig(px=32, outputs=PROBE.outputs, widths=(8, 8, 16), squeezed=8, hidden=32))
    Probe(whole, {"landmark_px": 2.0}, close).save(tmp_path / "probe.safetensors", {})
    again = Probe.load(tmp_path / "probe.safetensors")
    assert again.errors == {"landmark_px": 2.0} and again.patches is not None
    with torch.no_grad():
        seen = again.patches.read(images, points, still[0], points[0]).numpy()[:, UNIT["eyeBlinkLeft"]]
        same = again.patches(*parts).numpy()[:, UNIT["eyeBlinkLeft"]]
    assert same[shut].min() > 0.7 and same[~shut].max() < 0.3
    assert seen.shape == (64,)
    assert again.read(images[:3], still[0]).units.shape == (3, len(ARKIT_UNITS))
    assert again.read(images[:3]).gaze.shape == (3, 2)


def test_a_probe_without_a_close_look_still_loads(tmp_path: Path) -> None:
    reader = FaceReader(ReaderConfig(px=32, outputs=PROBE.outputs, widths=(8, 8, 16), squeezed=8, hidden=32))
    save_reader(reader, tmp_path / "probe.safetensors", {"errors": {"landmark_px": 1.4}})
    probe = Probe.load(tmp_path / "probe.safetensors")
    assert probe.patches is None and probe.errors == {"landmark_px": 1.4}
    assert probe.read(np.zeros((2, 64, 64, 3), np.uint8)).units.shape == (2, len(ARKIT_UNITS))


def test_blinks_fill_their_share_of_every_batch(tmp_path: Path) -> None:
    from tests.fake_subjects import FakeSubject, fake_performance
    from training.data.clips import render_clip
    from training.data.loading import ClipSequences
    from training.data.shards import ShardWriter

    with ShardWriter(tmp_path / "train-00000.tar") as writer:
        writer.add(render_clip(FakeSubject(0, 64), fake_performance(0, 4.0), rng=np.random.default_rng(0)))
    data = ClipSequences([tmp_path / "train-00000.tar"], tmp_path / "cache")
    config = PatchConfig(px=64, eye_px=16, mouth_px=16, width=8, hidden=16)
    batch = next(patches.patch_batches(data, config, 20, 0))
    assert batch["eyes"].shape == (20, 2, 3, 16, 16) and batch["still_mouth"].shape == (20, 3, 16, 16)
    assert (batch["change"][:, UNIT["eyeBlinkLeft"]] > 0.5).sum() >= 6


def test_auc_of_a_perfect_and_a_useless_score() -> None:
    shut = np.arange(10) > 6
    truth = np.zeros((10, len(ARKIT_UNITS)), np.float32)
    truth[:, [UNIT["eyeBlinkLeft"], UNIT["eyeBlinkRight"]]] = shut[:, None]
    assert patches.measure_changes(truth, truth)["blink_auc"] == 1.0
    assert patches.measure_changes(-truth, truth)["blink_auc"] == 0.0


def test_probe_trains_in_two_parts_and_keeps_the_first_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fake_subjects import FakeSubject, fake_performance
    from training.data.clips import render_clip
    from training.data.shards import ShardWriter
    from training.instruments import probe
    from training.run import RunConfig

    small = ReaderConfig(px=128, outputs=PROBE.outputs, widths=(8, 8, 16), squeezed=8, hidden=32)
    monkeypatch.setattr(probe, "PROBE", small)

    shard = tmp_path / "train-00000.tar"
    with ShardWriter(shard) as writer:
        for i in range(2):
            clip = render_clip(FakeSubject(i, 128), fake_performance(i, 4.4), rng=np.random.default_rng(i), key=f"c{i}")
            writer.add(clip)
    config = RunConfig(out=tmp_path / "probe", steps=1, batch=4, sample_every=100, threads=1, device="cpu")
    first = Probe.load(probe.train_probe([shard], [shard], config, tmp_path / "cache"))
    assert first.patches is not None and {"landmark_px", "r_brows", "blink_auc"} <= set(first.errors)
    assert (tmp_path / "probe" / "states.safetensors").exists()
    config = RunConfig(out=tmp_path / "again", steps=2, batch=4, sample_every=100, threads=1, device="cpu")
    again = Probe.load(
        probe.train_probe([shard], [shard], config, tmp_path / "cache", tmp_path / "probe/probe.safetensors")
    )
    assert not (tmp_path / "again" / "whole").exists()
    kept = first.reader.state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in again.reader.state_dict().items())
