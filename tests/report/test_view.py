"""`ranksr view`: what the pages show, and that nothing but the named runs is served."""

import base64
import html
import json
import re
import urllib.error
import urllib.parse
import urllib.request

import boto3
import pyarrow as pa
import pytest

from ranksr import cli, storage
from ranksr.errors import UserError
from ranksr.inspect import view

STAGES = ("srgan", "ranksrgan", "ablation/stages/ranksrgan-0a1b2c")


@pytest.fixture
def run(story, tmp_path, make_config, keep_pictures):
    """A run with the story's evaluation, a report, one training that is done and one that goes on, as one of a trial does.
    Both kept pictures of their validations."""
    root = tmp_path / "runs" / "first"
    storage.write_json(f"{root}/run.json", {"config": make_config().model_dump(mode="json")})
    for name, done in (("evaluation", True), ("srgan", True), ("ranksrgan", False)):
        entry = {"stage": name, "done": done, "fingerprint": "f", "results": {}, "inputs": {}}
        settings = {f"methods.{name}.train.steps": 400} if name != "evaluation" else {"scoring.profile": "pirm"}
        storage.write_json(f"{root}/{name}/stage.json", entry | {"settings": settings})
    storage.write_table(f"{root}/evaluation/scores.parquet", story.scores)
    for test_set in ("Set14", "Mine"):
        for name, _ in storage.list_files(f"{story.images}/{test_set}"):
            path = f"evaluation/images/{test_set}/{name}"
            storage.write_bytes(f"{root}/{path}", storage.read_bytes(f"{story.images}/{test_set}/{name}"))
    for name in ("srgan", "ranksrgan"):
        storage.write_jsonl(f"{root}/{name}/metrics.jsonl", story.curves[name])
    trial = "ablation/stages/ranksrgan-0a1b2c"
    storage.write_bytes(f"{root}/{trial}/stage.json", storage.read_bytes(f"{root}/ranksrgan/stage.json"))
    for name, steps in (("ranksrgan", (100, 200)), (trial, (300,))):
        storage.write_jsonl(f"{root}/{name}/metrics.jsonl", story.curves["ranksrgan"])
        keep_pictures(f"{root}/{name}", *steps)
    (root / "report").mkdir()
    (root / "report" / "index.html").write_text("the report", encoding="utf-8")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return root


@pytest.fixture
def address(run, serve_app):
    return serve_app(view.application(view.Site([str(run)])))


def get(url, **headers):
    """(status, body)"""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_first_page_shows_states_steps_scores_and_curves(address):
    status, body = get(f"{address}/")
    text = body.decode()
    assert status == 200
    row = re.sub(r"<[^>]+>", " ", text.partition('<th scope="row">ranksrgan</th>')[2].partition("</tr>")[0])
    assert row.split() == ["unfinished", "200", "of", "400", "2", "steps"]
    assert "± 95 % over images" in text
    assert 'aria-label="Validation of first/ranksrgan, first/srgan, first/ablation/stages/ranksrgan-0a1b2c"' in text
    assert 'http-equiv="refresh"' in text  # something goes on


def test_time_left_is_told_from_the_steps_seen(run, monkeypatch):
    site, clock = view.Site([str(run)]), [100.0]
    monkeypatch.setattr(view.time, "monotonic", lambda: clock[0])
    site.overview()
    rows = [{"step": 300, "split": "train", "perceptual": 0.1}]
    storage.write_jsonl(f"{run}/ranksrgan/metrics.jsonl", rows)
    clock[0] += 50.0  # 100 steps in 50 s; 100 are left
    assert "<td>300 of 400</td><td>50.0 s</td>" in site.overview()


def test_a_folder_of_runs_is_all_of_them(run):
    assert view.Site([str(run.parent)]).roots == [str(run)]
    with pytest.raises(UserError, match=r"is no run and holds none"):
        view.Site([str(run / "report")])


def test_pictures_and_thumbnails_of_the_gallery_are_served(address, story):
    assert get(f"{address}/pictures/")[0] == 200
    script = get(f"{address}/pictures/gallery.js")[1].decode()
    place = re.search(r'"(pictures/Set14/srgan/zebra\.png)"', script)
    thumbnail = re.search(r'"(thumbnails/Set14/zebra\.jpg)"', script)
    assert place
    assert thumbnail
    stored = storage.read_bytes(storage.join(story.images, "Set14", "srgan", "zebra.png"))
    assert get(f"{address}/pictures/{place[1]}") == (200, stored)
    assert get(f"{address}/pictures/{thumbnail[1]}")[1][:2] == b"\xff\xd8"
    assert get(f"{address}/report/0/index.html") == (200, b"the report")


def test_a_training_links_to_the_steps_that_it_kept_in_a_viewer_of_every_training(address, run):
    text = get(f"{address}/")[1].decode()
    rows = {name: text.partition(f'<th scope="row">{name}</th>')[2].partition("</tr>")[0] for name in STAGES}
    assert "validation/" not in rows["srgan"]
    links = {
        name: html.unescape(re.search(r'href="(validation/[^"]+)">(\d steps?)<', rows[name])[1]) for name in STAGES[1:]
    }
    assert "<a" in rows["ranksrgan"]
    assert ">2 steps<" in rows["ranksrgan"]
    assert get(f"{address}/validation/")[0] == 200
    script = get(f"{address}/validation/gallery.js")[1].decode()
    shown = json.loads(script.partition("=")[2].rstrip(";\n"))
    trained = [f"{run}:ranksrgan@100", f"{run}:ranksrgan@200", f"{run}/{STAGES[2]}@300"]
    assert shown["methods"] == ["lr", "bicubic", *trained, "hr"]
    asked = urllib.parse.parse_qs(links["ranksrgan"].partition("#")[2])
    assert asked == {"image": ["validation/photo_0_0_0"], "method": [*trained[:2], "hr"]}
    assert urllib.parse.parse_qs(links[STAGES[2]].partition("#")[2])["method"] == [trained[2], "hr"]
    (first, _) = shown["images"]
    stored = storage.read_bytes(f"{run}/ranksrgan/images/validation/step_00000100/photo_0_0_0.png")
    assert get(f"{address}/validation/{first['files'][trained[0]]}") == (200, stored)
    assert get(f"{address}/pictures/{first['files'][trained[0]]}")[0] == 404  # of the other viewer


def test_the_command_of_a_viewer_gives_the_figure_that_it_shows(run, tmp_path):
    shown = json.loads(view.Site([str(run)]).gallery("validation").partition("=")[2].rstrip(";\n"))
    out = str(tmp_path / "figure.png")
    methods = ",".join(shown["methods"])
    command = ["figure", *shown["sources"], "--image", shown["images"][0]["id"], "--methods", methods, "--out", out]
    assert cli.main(command) == 0


@pytest.mark.parametrize("below", ["pictures", "validation", "report/0", "report/1", "report/99999999999999999999"])
@pytest.mark.parametrize(
    "place",
    [
        *("../secret.png", "..%2fsecret.png", "%2e%2e/%2e%2e/secret.png", "..%5csecret.png", "../run.json"),
        *("/etc/passwd", "%2fetc%2fpasswd", "link.png", "index.html/../../run.json", "%00", "pictures/../../run.json"),
    ],
)
def test_no_path_leads_out(address, run, tmp_path, below, place):
    (run / "report" / "link.png").symlink_to(tmp_path / "secret.png")
    for viewer in ("pictures", "validation"):
        get(f"{address}/{viewer}/gallery.js")
    status, body = get(f"{address}/{below}/{place}")
    assert status in (400, 403, 404)
    assert b"secret" not in body
    assert b"root:" not in body


def test_a_picture_that_links_out_of_the_run_is_not_served(run, tmp_path):
    picture = run / "evaluation" / "images" / "Set14" / "srgan" / "zebra.png"
    (tmp_path / "outside.png").write_bytes(picture.read_bytes())
    picture.unlink()
    picture.symlink_to(tmp_path / "outside.png")
    site = view.Site([str(run)])
    script = site.gallery("pictures")
    for place in re.findall(r'"(pictures/Set14/[^"]+/zebra\.png)"', script):
        assert (site.picture("pictures", place) is None) == ("ranksrgan" not in place and "srgan" in place)


@pytest.fixture
def ranked(made_up, ranker_scores, story, serve_app):
    """Address of a run without an evaluation: a rank dataset, a Ranker with its scores, a training that goes on."""
    root = made_up.write()
    methods = pa.array([["a", "b"]] * len(ranker_scores), pa.list_(pa.string()))
    judged = ranker_scores.set_column(ranker_scores.schema.get_field_index("methods"), "methods", methods)
    storage.write_table(f"{root}/ranker/ranker_scores.parquet", judged)
    entry = {"fingerprint": "f", "results": {}, "inputs": {}, "settings": {}}
    for name in ("ranker", "ranksrgan"):
        storage.write_json(f"{root}/{name}/stage.json", entry | {"stage": name, "done": name == "ranker"})
        storage.write_jsonl(f"{root}/{name}/metrics.jsonl", story.curves[name])
    return serve_app(view.application(view.Site([root])))


def test_the_page_of_a_run_draws_the_flips_the_ranker_and_the_curves_before_there_is_a_report(ranked, made_up):
    assert 'href="run/0/"' in get(f"{ranked}/")[1].decode()
    status, body = get(f"{ranked}/run/0/")
    text = body.decode()
    assert status == 200
    patches = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]+ at \(0, ', text)
    expected = [made_up.patch(*place, name) for place in (("three", 0), ("one", 8)) for name in ("b", "a", "hr")]
    assert [base64.b64decode(patch) for patch in patches] == expected
    for figure in (
        "Upper bounds of ranking by NIQE",
        "Scores of the Ranker",
        "Training of ranksrgan",
        "Training of ranker",
    ):
        assert f'aria-label="{figure}' in text
    assert "It is not finished" not in text
    assert get(f"{ranked}/run/1/")[0] == get(f"{ranked}/run/99999999999999999999/")[0] == 404


def test_a_rank_dataset_that_is_at_work_is_drawn_as_far_as_it_is(made_up, tmp_path):
    root = made_up.write(done=False)
    assert "It is not finished: these are the numbers of the parts that are written." in view.Site([root]).stages(0)
    storage.delete(f"{root}/rank_dataset/part-00000.parquet")
    assert "No rank dataset and no training has begun." in view.Site([root]).stages(0)


def test_a_page_that_cannot_be_made_says_why(made_up, serve_app):
    address = serve_app(view.application(view.Site([made_up.write(methods=("a", "c"))])))
    status, body = get(f"{address}/run/0/")
    assert status == 500
    assert "ranker.methods names c" in body.decode()


def test_another_host_name_that_leads_here_is_refused(address):
    assert get(f"{address}/", Host="evil.example")[0] == 403
    assert get(f"{address}/", Host="localhost:1234")[0] == 200


def test_for_others_a_token_is_asked_for_and_kept(run, serve_app):
    address = serve_app(view.application(view.Site([str(run)]), token="right"))
    assert get(f"{address}/")[0] == 403
    assert get(f"{address}/?token=wrong")[0] == 403
    with urllib.request.urlopen(f"{address}/?token=right", timeout=60) as answer:
        cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert get(f"{address}/report/0/index.html", Cookie=cookie.partition(";")[0]) == (200, b"the report")


def test_what_is_no_run_is_named_at_the_command(tmp_path, capsys):
    assert cli.main(["view", str(tmp_path)]) == 2
    assert f"{tmp_path} is no run and holds none" in capsys.readouterr().err


def test_a_run_in_a_bucket_is_shown_like_one_on_disk(s3_server, run):
    boto3.client("s3").create_bucket(Bucket="runs")
    for path, _ in storage.list_files(str(run)):
        storage.write_bytes(f"s3://runs/first/{path}", storage.read_bytes(f"{run}/{path}"))
    site = view.Site(["s3://runs"])
    assert site.roots == ["s3://runs/first"]
    assert "200 of 400" in site.overview()
    place = re.search(r'"(pictures/Set14/srgan/zebra\.png)"', site.gallery("pictures"))
    assert place
    assert site.picture("pictures", place[1]) == storage.read_bytes(f"{run}/evaluation/images/Set14/srgan/zebra.png")
    kept = re.search(r'"(pictures/validation/[^"]*ranksrgan%40100/photo_0_0_0\.png)"', site.gallery("validation"))
    assert kept
    assert site.picture("validation", urllib.parse.unquote(kept[1]))[:4] == b"\x89PNG"
    assert site.report_file(0, "index.html") == b"the report"
    assert site.report_file(0, "../run.json") is None
