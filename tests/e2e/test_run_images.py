"""What `Run.embed` takes, and how `Run.score` and `Run.nearest` rank."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import pddm_jax
from tests.helpers.small_runs import FIELDS, HEIGHT, LABELS, WIDTH, Flat, noisy


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A run of images [8, 10, 1] by PDDM."""
    workdir = tmp_path_factory.mktemp("grey")
    return pddm_jax.train(noisy(None), LABELS, workdir=workdir, network=Flat(), steps=2, config=FIELDS)


@pytest.fixture(scope="module")
def rgb(tmp_path_factory):
    """A run of images [8, 10, 3] by the triplet loss."""
    given = {"network": Flat(), "objective": "triplet", "steps": 2, "config": FIELDS}
    return pddm_jax.train(noisy(3), LABELS, workdir=tmp_path_factory.mktemp("rgb"), **given)


def by_network(run, images):
    """Embeddings of images [n, 8, 10, c] by the network of the run alone."""
    variables = {"params": run.state.params["network"], "batch_stats": run.state.batch_stats}
    return np.asarray(jax.jit(run.network.apply)(variables, images))


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def plain(value, height=HEIGHT, width=WIDTH):
    """An image of one color."""
    return np.full((height, width, *np.shape(value)), value, np.uint8)


# --------------------------------------------------------------------------------------------- images


def test_arrays_are_embedded_by_the_network(grey, rgb):
    embeddings = grey.embed(noisy(None))
    assert embeddings.shape == (24, 4)
    assert embeddings.dtype == np.float32
    assert type(embeddings) is np.ndarray
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embeddings, by_network(grey, noisy(None)[..., None]), atol=1e-5)
    np.testing.assert_allclose(rgb.embed(noisy(3)), by_network(rgb, noisy(3)), atol=1e-5)


def test_every_form_of_the_same_pixels_has_the_same_embedding(grey, rgb, tmp_path):
    pixels, color = noisy(None), noisy(3)
    expected = grey.embed(pixels)
    paths = [tmp_path / f"{n}.png" for n in range(len(pixels))]
    for image, path in zip(pixels, paths, strict=True):
        Image.fromarray(image).save(path)
    images = [Image.fromarray(image) for image in pixels]
    for given in (
        pixels[..., None],
        [*pixels],
        tuple(pixels[..., None]),
        images,
        paths,
        [str(path) for path in paths],
        [*images[:9], *pixels[9:20], *pixels[20:, ..., None]],
        np.asfortranarray(pixels),
    ):
        np.testing.assert_array_equal(grey.embed(given), expected)
    np.testing.assert_array_equal(rgb.embed([Image.fromarray(x) for x in color]), rgb.embed(color))


def test_images_keep_their_order(grey):
    order = np.random.default_rng(3).permutation(24)
    np.testing.assert_array_equal(grey.embed(noisy(None)[order]), grey.embed(noisy(None))[order])


@pytest.mark.parametrize("count", [0, 1, 128, 129])
def test_any_number_of_images(grey, count):
    images = np.resize(noisy(None), (count, HEIGHT, WIDTH))
    embeddings = grey.embed(images)
    assert embeddings.shape == (count, 4)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, np.resize(grey.embed(noisy(None)), (count, 4)), atol=1e-6)


def test_no_images_in_any_form(grey):
    for nothing in ([], (), np.zeros((0, 8, 10, 3), np.uint8), np.zeros((0, 5, 5), np.uint8)):
        assert grey.embed(nothing).shape == (0, 4)


def test_one_image_is_a_sequence_of_one(grey, tmp_path):
    image = noisy(None)[0]
    Image.fromarray(image).save(tmp_path / "one.png")
    expected = grey.embed(image[None])
    assert expected.shape == (1, 4)
    for one in ([image], [Image.fromarray(image)], [tmp_path / "one.png"]):
        np.testing.assert_array_equal(grey.embed(one), expected)


@pytest.mark.parametrize("name", ["grey", "rgb"])
def test_an_image_of_one_color_is_the_same_at_any_size(name, request):
    run = request.getfixturevalue(name)
    for value in (200, (10, 200, 90)):
        sizes = (8, 10), (16, 20), (7, 3), (1, 1), (100, 30), (3, 200)
        embeddings = run.embed([plain(value, *size) for size in sizes])
        np.testing.assert_array_equal(embeddings, embeddings[[0]].repeat(len(sizes), axis=0))


def test_the_middle_of_an_image_of_another_shape_is_embedded(grey):
    wide = np.zeros((HEIGHT, 3 * WIDTH), np.uint8)
    wide[:, WIDTH : 2 * WIDTH] = noisy(None)[0]
    high = np.zeros((3 * HEIGHT, WIDTH), np.uint8)
    high[HEIGHT : 2 * HEIGHT] = noisy(None)[0]
    expected = grey.embed(noisy(None)[:1])
    np.testing.assert_allclose(grey.embed(wide[None]), expected, atol=1e-5)
    np.testing.assert_allclose(grey.embed([high]), expected, atol=1e-5)


def test_an_enlarged_image_is_much_like_itself(grey):
    smooth = np.add.outer(np.arange(HEIGHT) * 20, np.arange(WIDTH) * 5).astype(np.uint8)
    enlarged = np.asarray(
        Image.fromarray(smooth).resize((WIDTH * 4, HEIGHT * 4), Image.Resampling.BILINEAR)
    )
    np.testing.assert_allclose(grey.embed([enlarged]), grey.embed([smooth]), atol=0.05)


def test_grey_images_have_the_channels_of_the_network(rgb):
    pixels = noisy(None)
    np.testing.assert_array_equal(rgb.embed(pixels), rgb.embed(pixels[..., None].repeat(3, axis=-1)))
    np.testing.assert_array_equal(rgb.embed([*pixels[..., None]]), rgb.embed(pixels))


def test_color_images_are_grey_for_a_grey_network(grey):
    pixels = noisy(None)
    np.testing.assert_array_equal(grey.embed(pixels[..., None].repeat(3, axis=-1)), grey.embed(pixels))
    luma = np.round(noisy(3) @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)  # ITU-R BT.601
    np.testing.assert_allclose(grey.embed(noisy(3)), grey.embed(luma), atol=0.03)


def pictures():
    """Pillow images of many modes, and the RGB bytes that each shows on white."""
    color = noisy(3)[0]
    image = Image.fromarray(color)
    palette = image.quantize(16)
    yield "RGB", image, color
    yield "L", Image.fromarray(noisy(None)[0]), noisy(None)[0][..., None].repeat(3, axis=-1)
    yield "P", palette, np.asarray(palette.convert("RGB"))
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    alpha[:, ::2] = 255
    on_white = np.where(alpha > 0, color, 255).astype(np.uint8)
    yield "RGBA", Image.fromarray(np.concatenate([color, alpha], axis=-1)), on_white
    grey = noisy(None)[1]
    on_white = np.where(alpha > 0, grey[..., None], 255).astype(np.uint8).repeat(3, axis=-1)
    yield "LA", Image.fromarray(np.concatenate([grey[..., None], alpha], axis=-1)), on_white
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    yield "I;16", deep, grey[..., None].repeat(3, axis=-1)
    yield "CMYK", image.convert("CMYK"), np.asarray(image.convert("CMYK").convert("RGB"))
    yield (
        "1",
        Image.fromarray(grey > 99),
        np.where(grey > 99, 255, 0)[..., None].repeat(3, -1).astype(np.uint8),
    )


@pytest.mark.parametrize("name", ["RGB", "L", "P", "RGBA", "LA", "I;16", "CMYK", "1"])
def test_an_image_of_any_mode_is_what_it_shows(name, rgb, tmp_path):
    image, shown = next(rest for mode, *rest in pictures() if mode == name)
    assert image.mode == name
    expected = rgb.embed(shown[None])
    np.testing.assert_array_equal(rgb.embed([image]), expected)
    path = tmp_path / ("image.tif" if name == "CMYK" else "image.png")
    image.save(path)
    np.testing.assert_array_equal(rgb.embed([path]), expected)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(rgb.embed([opened]), expected)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_an_image_is_turned_as_exif_tells(orientation, turns, rgb, tmp_path):
    pixels, exif = noisy(3)[0], Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    expected = rgb.embed([np.rot90(pixels, turns)])
    np.testing.assert_array_equal(rgb.embed([tmp_path / "turned.png"]), expected)
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_array_equal(rgb.embed([opened]), expected)


def test_images_are_not_changed(rgb):
    pixels = noisy(3)
    pixels.flags.writeable = False
    rgb.embed(pixels)
    image = Image.fromarray(np.concatenate([pixels[0], pixels[0][..., :1]], axis=-1))
    before = image.tobytes()
    rgb.embed([image])
    assert (image.mode, image.tobytes()) == ("RGBA", before)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 10), np.float32),
        np.zeros((2, 8, 10), np.int32),
        np.zeros((2, 8, 10), np.uint16),
        np.zeros((2, 8, 10), bool),
        np.zeros(8, np.uint8),
        np.zeros((8, 10), np.uint8),
        np.zeros((2, 8, 10, 2), np.uint8),
        np.zeros((2, 8, 10, 3, 1), np.uint8),
        np.zeros((2, 0, 10), np.uint8),
        np.uint8(3),
        [np.zeros((8, 10), np.float64)],
        [np.zeros((8, 10, 5), np.uint8)],
        [np.zeros(8, np.uint8)],
        [np.zeros((8, 0), np.uint8)],
        [np.zeros((8, 10), np.uint8), None],
        [np.zeros((8, 10), np.uint8), "a.png"],
        [1, 2],
        [[0, 1], [2, 3]],
        {"images": 1},
        {0: np.zeros((8, 10), np.uint8)},
        None,
        3,
        b"bytes",
        {"a.png"},
        Image.new("RGB", (10, 8)),
        Image.new("F", (10, 8)),
        [Image.new("RGB", (0, 0))],
    ],
    ids=lambda images: re.sub(r"\s+(at 0x\w+)?", " ", repr(images))[:60],
)
def test_what_is_no_images_is_refused(images, grey):
    with pytest.raises(ValueError, match="images") as error:
        grey.embed(images)
    one_line(error)


def test_files_that_are_no_images_are_named(grey, tmp_path):
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    Image.fromarray(noisy(3)[0]).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:99])
    (tmp_path / "folder.png").mkdir()
    for name in ("text.png", "half.png", "folder.png"):
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises((ValueError, OSError), match=name) as error:
                grey.embed([tmp_path / "whole.png", path])
            one_line(error)
    for path in ("nothing.png", Path("nothing.png")):
        with pytest.raises(OSError, match=r"nothing\.png") as error:
            grey.embed([path])
        one_line(error)
    for path in ("nothing.png", str(tmp_path / "whole.png"), tmp_path / "whole.png"):
        with pytest.raises((ValueError, OSError), match=r"images|nothing") as error:
            grey.embed(path)
        one_line(error)


# ------------------------------------------------------------------------------------ score and nearest


def vectors(count, width=4, seed=5):
    x = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def pddm_score(params, x, y):
    """The score of a pair as the paper draws it, in float64."""
    unit = {name: {k: np.float64(v) for k, v in layer.items()} for name, layer in params.items()}

    def layer(name, x):
        return x @ unit[name]["kernel"] + unit[name]["bias"]

    def rectified_unit(x):
        x = np.maximum(x, 0)
        return x / max(np.linalg.norm(x), 1e-30)

    x, y = np.float64(x), np.float64(y)
    u, v = rectified_unit(layer("difference", abs(x - y))), rectified_unit(layer("mean", (x + y) / 2))
    return layer("score", np.maximum(layer("joint", np.concatenate([u, v])), 0))[0]


def test_scores_are_those_of_the_formula(grey):
    x, y = vectors(7), vectors(5, seed=6)
    scores = grey.score(x, y)
    expected = [[pddm_score(grey.state.params["unit"], a, b) for b in y] for a in x]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    unit = jax.device_get(grey.state.params["unit"])
    np.testing.assert_array_equal(scores, pddm_jax.score_matrix(unit, x, y))
    np.testing.assert_array_equal(grey.score(x), pddm_jax.score_matrix(unit, x))
    np.testing.assert_allclose(grey.score(x, x), grey.score(x), atol=1e-5)
    assert (scores.shape, scores.dtype) == ((7, 5), np.float32)


def test_nearest_by_distance_is_the_order_of_a_loop(grey, rgb):
    queries, gallery = vectors(7), vectors(20, seed=6)
    distances = ((np.float64(queries)[:, None] - np.float64(gallery)) ** 2).sum(-1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :4]
    for run in (grey, rgb):  # by="euclidean" is the default, whatever the objective
        values, index = run.nearest(queries, gallery, 4)
        np.testing.assert_array_equal(index, order)
        np.testing.assert_allclose(values, -np.take_along_axis(distances, order, 1), rtol=1e-5)
        for ours, theirs in zip((values, index), pddm_jax.nearest(queries, gallery, 4), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(run.nearest(queries, gallery, k=4, by="euclidean")[1], index)


def test_nearest_by_score_is_the_order_of_a_loop(grey):
    queries, gallery = vectors(7), vectors(20, seed=6)
    values, index = grey.nearest(queries, gallery, k=3, by="pddm")
    scores = np.array([[pddm_score(grey.state.params["unit"], a, b) for b in gallery] for a in queries])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    np.testing.assert_allclose(values, np.take_along_axis(scores, order, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        np.take_along_axis(scores, np.asarray(index), 1), values, rtol=1e-4, atol=1e-5
    )
    scored = jax.tree_util.Partial(pddm_jax.score_matrix, jax.device_get(grey.state.params["unit"]))
    for ours, theirs in zip((values, index), pddm_jax.nearest(queries, gallery, 3, scored), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_score_that_was_not_trained_is_refused(rgb):
    x = vectors(3)
    for call in (lambda: rgb.score(x), lambda: rgb.nearest(x, x, 1, by="pddm")):
        with pytest.raises(ValueError, match="triplet") as error:
            call()
        assert "objective" in one_line(error)


@pytest.mark.parametrize("by", ["cosine", "", None, 0, "PDDM", ["pddm"]])
def test_an_unknown_order_is_refused(by, grey):
    with pytest.raises(ValueError, match=r"by\b.*'euclidean'.*'pddm'") as error:
        grey.nearest(vectors(3), vectors(3), 1, by=by)
    one_line(error)


def test_embeddings_of_another_width_are_refused(grey):
    for by in ("euclidean", "pddm"):
        for k in (0, 4, True):
            with pytest.raises(ValueError, match=r"\bk\b") as error:
                grey.nearest(vectors(2), vectors(3), k, by=by)
            one_line(error)
        with pytest.raises(ValueError, match=r"queries|gallery") as error:
            grey.nearest(vectors(2), vectors(3, width=5), 1, by=by)
        one_line(error)
    for given in ((vectors(2, width=5),), (vectors(2), vectors(2, width=5)), (vectors(2)[0],)):
        with pytest.raises(ValueError, match=r"\b[xy]\b") as error:
            grey.score(*given)
        one_line(error)


def test_one_image_and_a_folder_are_told_how_to_be_given(grey, tmp_path):
    for image in (np.zeros((8, 10, 1), np.uint8), np.zeros((8, 10, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"one image .* give it in a list"):
            grey.embed(image)
        assert len(grey.embed([image])) == 1
    with pytest.raises(ValueError, match=r"give \[image\]"):
        grey.embed(Image.new("L", (10, 8)))
    with pytest.raises(ValueError, match=r"is the folder .*: give the paths of its images"):
        grey.embed([str(tmp_path)])
    with pytest.raises(ValueError, match="give the paths of its images"):
        grey.embed(str(tmp_path))
    with pytest.raises(ValueError, match=r"images is the folder .*: give no labels"):
        pddm_jax.train(str(tmp_path), [0, 1], workdir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"queries must be a matrix .* \(4,\)"):
        grey.nearest(np.zeros(4, np.float32), np.zeros((3, 4), np.float32), 1)
