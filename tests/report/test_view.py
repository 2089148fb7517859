"""`ranksr view`: what the pages show, and that nothing but the named runs is served."""

import re
import urllib.error
import urllib.request

import boto3
import pytest

from ranksr import cli, storage
from ranksr.errors import UserError
from ranksr.inspect import view


@pytest.fixture
def run(story, tmp_path, make_config):
    """A run with the story's evaluation, a report, one training that is done and one that goes on."""
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
    assert row.split() == ["unfinished", "200", "of", "400"]
    assert "± 95 % over images" in text
    assert 'aria-label="Validation of first/ranksrgan, first/srgan"' in text
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
    place = re.search(r'"(pictures/Set14/[^"]+srgan/zebra\.png)"', script)
    thumbnail = re.search(r'"(thumbnails/Set14/zebra\.jpg)"', script)
    assert place
    assert thumbnail
    stored = storage.read_bytes(storage.join(story.images, "Set14", "srgan", "zebra.png"))
    assert get(f"{address}/pictures/{place[1]}") == (200, stored)
    assert get(f"{address}/pictures/{thumbnail[1]}")[1][:2] == b"\xff\xd8"
    assert get(f"{address}/report/0/index.html") == (200, b"the report")


@pytest.mark.parametrize("below", ["pictures", "report/0", "report/1", "report/99999999999999999999"])
@pytest.mark.parametrize(
    "place",
    [
        *("../secret.png", "..%2fsecret.png", "%2e%2e/%2e%2e/secret.png", "..%5csecret.png", "../run.json"),
        *("/etc/passwd", "%2fetc%2fpasswd", "link.png", "index.html/../../run.json", "%00", "pictures/../../run.json"),
    ],
)
def test_no_path_leads_out(address, run, tmp_path, below, place):
    (run / "report" / "link.png").symlink_to(tmp_path / "secret.png")
    get(f"{address}/pictures/gallery.js")
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
    script = site.gallery()
    for place in re.findall(r'"(pictures/Set14/[^"]+/zebra\.png)"', script):
        assert (site.picture(place) is None) == ("ranksrgan" not in place and "srgan" in place)


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
    place = re.search(r'"(pictures/Set14/[^"]+srgan/zebra\.png)"', site.gallery())
    assert place
    assert site.picture(place[1]) == storage.read_bytes(f"{run}/evaluation/images/Set14/srgan/zebra.png")
    assert site.report_file(0, "index.html") == b"the report"
    assert site.report_file(0, "../run.json") is None
