import unittest

from counting import count, problems


class Counting(unittest.TestCase):
    def test_all_instances_are_counted_or_those_of_one_version(self):
        versions = ["17", "16", "17"]
        self.assertEqual(count(versions, None), 3)
        self.assertEqual(count(versions, "17"), 2)
        self.assertEqual(count(versions, "15"), 0)

    def test_wrong_settings_are_told_by_field(self):
        self.assertEqual(list(problems({})), [])
        self.assertEqual([field for field, _ in problems({"many": 0, "few": 1})], ["few", "many"])


if __name__ == "__main__":
    unittest.main()
