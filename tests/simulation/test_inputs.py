"""Traces, shapes and curves mean what they say, and what is wrong with one is said with its place."""

from __future__ import annotations

import contextlib
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_operator.simulation import arrivals, curve, trace
from rayfleet_operator.simulation.arrivals import Arrivals, Piece, ShapeError
from rayfleet_operator.simulation.curve import Curve, CurveError
from rayfleet_operator.simulation.trace import TraceError


def requests(text: str) -> Arrivals:
    found = trace.read(text.splitlines())
    assert isinstance(found, Arrivals)
    return found


@pytest.mark.parametrize(
    ("text", "times", "rows"),
    [
        ("0.5\n1\n2.25\n", [0.5, 1, 2.25], None),
        ("time\n0.5\n1\n", [0.5, 1], None),
        ("time,rows\n0.5,1\n1,4\n", [0.5, 1], [1, 4]),
        ("rows,time\n4,0.5\n", [0.5], [4]),
        ("0.5,1\n1,4\n", [0.5, 1], [1, 4]),
        ('\n# from a log\n"time"\n"0.5"\n\n1\n', [0.5, 1], None),
        ('{"time": 0.5}\n{"time": 1, "rows": 3}\n', [0.5, 1], [1, 3]),
        ("2\n0.5\n1\n", [0.5, 1, 2], None),
        ("time,rows\n2,1\n0.5,7\n", [0.5, 2], [7, 1]),
    ],
)
def test_a_trace_of_requests(text: str, times: list[float], rows: list[int] | None) -> None:
    found = requests(text)
    assert list(found.times) == times
    assert (None if found.rows is None else list(found.rows)) == rows
    assert found.lasts_s == times[-1]
    assert found.began is None


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T08:00:00.5Z\n2026-03-01T08:00:02Z\n",
        "2026-03-01T09:00:00.5+01:00\n2026-03-01T08:00:02+00:00\n",
        '{"time": "2026-03-01T08:00:00.5Z"}\n{"time": "2026-03-01T08:00:02Z"}\n',
        "1772352000.5\n1772352002\n",
    ],
)
def test_moments_count_from_the_first_one(text: str) -> None:
    found = requests(text)
    assert list(found.times) == pytest.approx([0, 1.5])
    assert found.began == datetime(2026, 3, 1, 8, 0, 0, 500_000, tzinfo=UTC)


def test_a_trace_of_rates() -> None:
    pieces = [Piece(60, 10), Piece(150, 0.5, rows=4)]
    assert trace.read(["duration,rate,rows", "60s,10,1", "2m30s,0.5,4"]) == pieces
    assert trace.read(['{"duration": 60, "rate": 10}', '{"duration": "150s", "rate": 0.5, "rows": 4}']) == pieces


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 0, "no request"),
        ("# nothing\n\n", 0, "no request"),
        ("time,rows\n", 0, "no request"),
        ("duration,rate\n", 0, "no request"),
        ("time,rows\n1,0000000001999999999999999999\n", 2, "is no number of rows"),
        ("when\n1\n", 1, "'when' are not the columns of a trace; write time, time,rows"),
        ("time,size\n1,2\n", 1, "'time, size' are not the columns"),
        ("duration\n1\n", 1, "'duration' are not the columns"),
        ("time,time\n1,2\n", 1, "a column stands there twice"),
        ("time\n1\nsoon\n", 3, "time: 'soon' is no time; write RFC 3339 with a time zone"),
        ("time\n-1\n", 2, "time: '-1' is no time"),
        ("time\nnan\n", 2, "time: 'nan' is no time"),
        ("time\n1e300\n", 2, "time: '1e300' is no time"),
        ("2026-03-01T08:00:00\n", 1, "is no time; write RFC 3339 with a time zone"),
        ("1\n2026-03-01T08:00:00Z\n", 2, "some are moments and some seconds"),
        ("time,rows\n1\n", 2, "1 values where there are 2 columns; write time, rows"),
        ("1\n2,3\n", 2, "2 values where there are 1 columns"),
        ("1,2,3\n", 1, "3 values where there are 2 columns"),
        ("time,rows\n1,0\n", 2, "rows: '0' is no number of rows"),
        ("time,rows\n1,1.5\n", 2, "rows: '1.5' is no number of rows"),
        ("time,rows\n1,9999999999\n", 2, "rows: '9999999999' is no number of rows"),
        ('{"time": 1}\n{"time": \n', 2, "column 9: not JSON"),
        ('{"time": 1}\n[1]\n', 2, "[1] is not an object"),
        ('{"time": 1}\n{"rows": 1}\n', 2, "time: missing"),
        ('{"time": 1, "size": 3}\n', 1, "'time, size' are not the columns"),
        ('{"time": 1}\n{"time": 1, "size": 3}\n', 2, "'size' is not known; write time, rows"),
        ('{"time": true}\n', 1, "time: True is no time"),
        ('{"time": [1]}\n', 1, "time: [1] is no time"),
        ('{"time": 1, "rows": 2.5}\n', 1, "rows: 2.5 is no number of rows"),
        ("duration,rate\n60,ten\n", 2, "rate: 'ten' is no rate"),
        ("duration,rate\n60,-1\n", 2, "rate: '-1' is no rate"),
        ("duration,rate\nlong,1\n", 2, "duration: 'long' is no duration"),
        ("duration,rate\n0,1\n", 2, "duration: '0' is no duration"),
        ("duration,rate\n1e6,1\n1e6,1e6\n", 3, "until here more than 20000000 requests"),
    ],
)
def test_what_is_wrong_with_a_trace(text: str, line: int, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        trace.read(text.splitlines())
    assert caught.value.line == line
    assert said in str(caught.value)


@given(st.text(max_size=200))
def test_no_text_is_more_than_a_wrong_trace(text: str) -> None:
    with contextlib.suppress(TraceError):
        trace.read(text.splitlines())


@given(st.text(max_size=200) | st.from_regex(r'\{"batchSeconds": \{"[0-9]+": [-0-9.e]+\}.*\}', fullmatch=True))
def test_no_text_is_more_than_a_wrong_curve(text: str) -> None:
    for read in (curve.read, curve.parse):
        with contextlib.suppress(CurveError):
            read(text)


def test_shapes() -> None:
    assert arrivals.shape("steps:60s@10,2m@0.5") == [Piece(60, 10), Piece(120, 0.5)]
    day = arrivals.shape("day:2@20")
    assert sum(piece.duration_s for piece in day) == 86_400
    rates = [piece.rate for piece in day]
    assert min(rates) == pytest.approx(2, abs=0.1)
    assert max(rates) == pytest.approx(20, abs=0.1)
    assert rates.index(max(rates)) / len(rates) * 24 == pytest.approx(15, abs=0.2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no shape; write steps:60s@10"),
        ("wave:1@2", "'wave:1@2' is no shape"),
        ("steps:", "'' is not DURATION@RATE"),
        ("steps:60s", "'60s' is not DURATION@RATE, like 60s@10"),
        ("steps:60@10", "'60@10': '60' is not a duration"),
        ("steps:60s@many", "'60s@many': 'many' is no rate"),
        ("steps:60s@-1", "'-1' is no rate"),
        ("steps:60s@1,,", "'' is not DURATION@RATE"),
        ("day:2", "'2' is not day:LOW@HIGH"),
    ],
)
def test_what_is_wrong_with_a_shape(text: str, said: str) -> None:
    with pytest.raises(ShapeError) as caught:
        arrivals.shape(text)
    assert said in str(caught.value)


def test_arrivals_at_a_rate_are_random_and_the_same_for_one_seed() -> None:
    pieces = [Piece(1000, 10), Piece(500, 0), Piece(1000, 40, rows=2)]
    one, same, other = (arrivals.poisson(pieces, random.Random(seed).random) for seed in (1, 1, 2))
    assert list(one.times) == list(same.times) != list(other.times)
    assert one.lasts_s == 2500
    assert len(one.times) == pytest.approx(50_000, rel=0.02)
    assert not [time for time in one.times if 1000 <= time < 1500]
    assert one.rows is not None
    assert {rows for time, rows in zip(one.times, one.rows, strict=True) if time >= 1500} == {2}
    # The times between arrivals of a Poisson process vary as much as they last.
    gaps = [b - a for a, b in zip(one.times, one.times[1:], strict=False) if b < 1000]
    mean = sum(gaps) / len(gaps)
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize(("rows", "seconds"), [(1, 0.02), (2, 0.03), (3, 0.04), (5, 0.06), (9, 0.08), (11, 0.09)])
def test_a_curve_between_and_beyond_its_points(rows: int, seconds: float) -> None:
    found = curve.parse("1=20ms, 5=60ms,9=80ms")
    assert found.seconds(rows) == pytest.approx(seconds)


def test_a_curve_does_not_fall_beyond_its_points() -> None:
    assert curve.parse("1=30ms,2=20ms").seconds(8) == pytest.approx(0.02)
    assert curve.parse("4=30ms").seconds(1) == curve.parse("4=30ms").seconds(9) == pytest.approx(0.03)


def test_a_curve_is_read_as_it_was_written() -> None:
    written = Curve(((1, 0.02), (8, 0.05)), hop_s=0.003, start_up_s=6.5, model="digits", version="3")
    assert curve.read(written.text()) == written
    assert curve.read('{"batchSeconds": {"8": 0.05, "1": 0.02}}') == Curve(((1, 0.02), (8, 0.05)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1, column 2: not JSON"),
        ("[]", "[] is not a curve; rayfleet measure writes one"),
        ("{}", "batchSeconds: missing"),
        ('{"batchSeconds": {}}', "batchSeconds: missing"),
        ('{"batchSeconds": {"one": 1}}', "'one' is not a number of rows"),
        ('{"batchSeconds": {"0": 1}}', "'0' is not a number of rows"),
        ('{"batchSeconds": {"5000": 1}}', "'5000' is not a number of rows"),
        ('{"batchSeconds": {"1": "20ms"}}', "batchSeconds.1: '20ms' is no time"),
        ('{"batchSeconds": {"1": 0}}', "batchSeconds.1: a batch takes time"),
        ('{"batchSeconds": {"1": -1}}', "batchSeconds.1: -1 is no time"),
        ('{"batchSeconds": {"1": NaN}}', "batchSeconds.1: nan is no time"),
        ('{"batchSeconds": {"1": 1}, "hopSeconds": true}', "hopSeconds: True is no time"),
        ('{"batchSeconds": {"1": 1}, "startUpSeconds": -1}', "startUpSeconds: -1 is no time"),
        ('{"batchSeconds": {"1": 1}, "model": 3}', "model: 3 is not text"),
        ('{"batchSeconds": {"1": 1}, "hop": 3}', "'hop' is not known"),
        ("[" * 100_000, "nested too deeply"),
        ('{"batchSeconds": {"1": 1' + 5000 * "0" + "}}", "thousands of digits"),
        ('{"batchSeconds": {"1": 1' + 400 * "0" + "}}", "is no time"),
    ],
)
def test_what_is_wrong_with_a_curve(text: str, said: str) -> None:
    with pytest.raises(CurveError) as caught:
        curve.read(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("20ms", "'20ms' is not ROWS=DURATION"),
        ("1=20", "'1=20': '20' is not a duration"),
        ("1=0s", "'1=0s': a batch takes time"),
        ("one=20ms", "'one' is not a number of rows"),
    ],
)
def test_what_is_wrong_with_a_typed_curve(text: str, said: str) -> None:
    with pytest.raises(CurveError) as caught:
        curve.parse(text)
    assert said in str(caught.value)
