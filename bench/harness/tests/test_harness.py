"""The arithmetic of tables and bars, what is read from the tools' output, and the page. Run by `bench/selfcheck`."""

import unittest
import unittest.mock as mock
import xml.etree.ElementTree

from harness import kafka, measure, plot, profile, rabbitmq, report
from harness.measure import OURS


def rows(ours, theirs, bar, ours_p99=None, theirs_p99=None, **figures):
    """One row with these rates in rounds."""
    found = measure.Rows()
    found.row("r", "produce", "records/s", bar)
    for rate in ours:
        found.add("r", OURS, "synced", rate=rate, p99_ms=ours_p99, **figures)
    for rate in theirs:
        found.add("r", "Peer", "synced", rate=rate, p99_ms=theirs_p99)
    return found.rows


class Tables(unittest.TestCase):
    def test_bars_are_judged_by_medians(self):
        for ours, theirs, bar, expect in [
            ([30, 10, 20], [10, 5, 6], {"ratio_min": {"Peer": 3}}, [True]),
            ([30, 10, 20], [10, 5, 7], {"ratio_min": {"Peer": 3}}, [False]),
            ([1], [1], {"ratio_min": {"Another": 3}}, []),
            ([1], [1], None, []),
        ]:
            row = rows(ours, theirs, bar)["r"]
            self.assertEqual([met for _, _, met in measure.verdicts(row)], expect)

    def test_what_others_disturbed_is_measured_again_and_the_calmest_try_counts(self):
        for stolen, rates in [([0.05], [1]), ([0.3, 0.05], [2]), ([0.3, 0.4, 0.2, 0.5], [3])]:
            run = measure.Run.__new__(measure.Run)
            run.rounds, run.found = 1, measure.Rows()
            run.found.row("r", "produce", "records/s")
            tries, shares = iter([1, 2, 3, 4]), iter(stolen)
            others = mock.patch.object(measure.machine, "stolen_since", lambda _: next(shares))
            with others, mock.patch.object(measure.time, "sleep"):
                run.interleave("r", [OURS], lambda side: run.found.add("r", side, "synced", rate=next(tries)))
            rounds = run.found.rows["r"]["sides"][OURS]["rounds"]
            self.assertEqual([one["rate"] for one in rounds], rates)
            self.assertEqual([one["stolen"] for one in rounds], [min(stolen)])

    def test_what_is_shown_as_stolen_is_of_the_worst_round(self):
        row = rows([1], [1], None)["r"]
        row["sides"][OURS]["rounds"] = [{"rate": 1, "stolen": 0.34}, {"rate": 2, "stolen": 0.0}, {"stolen": 0.0}]
        shown = [dict(zip(measure.COLUMNS, line))["stolen"] for line in measure.table({"r": row})[1:]]
        self.assertEqual(shown, ["34%", ""])

    def test_a_sync_is_allowed_only_where_the_peer_does_not(self):
        for with_sync, ours, expect in [
            (True, 14.9, True),
            (True, 15.1, False),
            (False, 10.1, False),
            (False, 10, True),
        ]:
            row = rows([1], [1], {"p99_max": {"Peer": with_sync}}, ours, 10, sync_p99_ms=5)["r"]
            self.assertEqual([met for _, _, met in measure.verdicts(row)], [expect])

    def test_the_share_of_the_floor(self):
        row = rows([1], [1], {"floor_min": 0.7}, floor_share=0.69)["r"]
        self.assertEqual(measure.verdicts(row), [("at least 70% of the floor", "69%", False)])

    def test_what_was_published_is_shown_where_consumers_fall_behind(self):
        for published, expect in [(1000, "1,000"), (1040, "1,000"), (4000, "1,000 (published 4,000)")]:
            self.assertEqual(measure.rate(rows([1000], [], None, published=published)["r"], OURS), expect)

    def test_a_table_shows_both_sides(self):
        lines = measure.table(rows([2000, 4000], [1500], {"ratio_min": {"Peer": 1}}))
        self.assertEqual(lines[1][:5], ["produce, records/s", OURS, "synced", "3,000", "2,000–4,000"])
        self.assertEqual((lines[2][1], lines[2][6]), ("Peer", "2.00"))
        self.assertIn("holds", measure.text(lines).splitlines()[3])


class Tools(unittest.TestCase):
    def test_perfs_counts_are_read(self):
        said = "29;;raw_syscalls:sys_enter;1;100.00;;\n<not counted>;;syscalls:sys_enter_read;0;0.00;;\n"
        self.assertEqual(profile.counts(said), {"raw_syscalls:sys_enter": 29})

    def test_a_functions_share_is_what_it_ran_itself(self):
        folded = "broker;a;b::h0123456789abcdef 3\nbroker;a;write_[k] 5\nbroker;a 1\nbroker;c;b::hfedcba9876543210 1\n"
        self.assertEqual(profile.shares(folded), (0.5, [["write", 0.5], ["b", 0.4], ["a", 0.1]]))

    def test_kafkas_steady_state_is_read(self):
        said = (
            "400000 records sent, 28745.957600 records/sec (28.07 MB/sec), 906.43 ms avg latency, 1538.00 "
            "ms max latency, "
            "903 ms 50th, 1322 ms 95th, 1450 ms 99th, 1509 ms 99.9th.\n"
            "300000 steady state records sent, 33392.698130 records/sec (32.61 MB/sec), 840.38 ms avg "
            "latency, 1283.00 ms "
            "max latency, 856 ms 50th, 1176 ms 95th, 1258 ms 99th, 1272 ms 99.9th.\n"
        )
        self.assertEqual(kafka.STEADY.findall(said)[-1][2:], ("33392.698130", "856", "1176", "1258"))

    def test_perf_tests_seconds_are_read(self):
        second = (
            "id: test, time {}.001 s, sent: {} msg/s, confirmed: 1 msg/s, nacked: 0 msg/s, received: {} "
            "msg/s, "
            "min/median/75th/95th/99th consumer latency: 1510/{}/21178/34411/4000 µs, confirm latency: "
            "1/2/3/4/5 µs\n"
        )
        said = second.format(1, 9, 9, 9) + second.format(2, 100, 90, 1000) + second.format(3, 200, 110, 3000)
        self.assertEqual(
            rabbitmq.steady(said, 1.5), {"rate": 100, "published": 150, "p50_ms": 2, "p99_ms": 4}
        )
        self.assertIsNone(rabbitmq.steady(said, 9))


class Page(unittest.TestCase):
    def test_plots_are_xml(self):
        for drawn in [
            plot.bars([("a < b", [(OURS, 2), ("Peer", 1)])], "times"),
            plot.line([(1, 0), (1000, 5)], "n", "µs"),
            plot.line([(5, 0)], "n", "µs"),
        ]:
            xml.etree.ElementTree.fromstring(drawn)

    def test_a_comparison_names_its_bars(self):
        row = rows([10], [10], {"ratio_min": {"Peer": 2}})["r"]
        row["run"] = {
            "begun": "then",
            "ended": "later",
            "commit": "c",
            "rounds": 1,
            "seconds": 5,
            "load_before": 0.5,
        }
        result = {"rows": {"r": row}, "versions": {"Peer": "1"}, "settings": {}, "comparison": "kafka"}
        self.assertIn("| produce | at least 2 × Peer | 1.00 × | **missed** |", report.comparison(result))
        self.assertIn("`bench/kafka --rounds 1 --seconds 5`", report.comparison(result))

    def test_curves_are_shown_with_their_bars(self):
        bar = {"what": "memory", "asks": "at most 30 MB", "measured": "31 MB", "met": False}
        curve = {"title": "Queues", "columns": ["queues", "MB"], "points": [[10, 1.5]]}
        found = {
            "curves": {"queues": curve},
            "bars": [bar],
            "versions": {},
            "settings": {},
            "comparison": "scale",
        }
        run = {"begun": "a", "ended": "b", "commit": "c", "rounds": 1, "seconds": 5, "load_before": 0.5}
        curve["run"] = bar["run"] = run
        self.assertIn("| memory | at most 30 MB | 31 MB | **missed** |", report.scale(found))
        self.assertIn("| 10 | 1.50 |", report.scale(found))

    def test_what_is_measured_again_replaces(self):
        old = {
            "rows": {"a": 1, "b": 1},
            "curves": {},
            "bars": [{"what": "x", "met": False}, {"what": "y", "met": True}],
        }
        new = {"rows": {"b": 2}, "bars": [{"what": "x", "met": True}]}
        found = measure.merged(old, new)
        self.assertEqual(found["rows"], {"a": 1, "b": 2})
        self.assertEqual({bar["what"]: bar["met"] for bar in found["bars"]}, {"x": True, "y": True})

    def test_short_numbers(self):
        for value, expect in [(0, "0"), (999, "999"), (1500, "1.5k"), (2e6, "2M")]:
            self.assertEqual(plot.short(value), expect)


if __name__ == "__main__":
    unittest.main()
