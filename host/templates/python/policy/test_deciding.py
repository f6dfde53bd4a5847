import unittest

from deciding import denial, dsn, problems


class Deciding(unittest.TestCase):
    def test_a_version_that_the_team_has_not_chosen_is_denied_with_those_that_it_has(self):
        self.assertIsNone(denial("17", []))
        self.assertIsNone(denial("16", ["16", "17"]))
        self.assertIn("16, 17", denial("15", ["16", "17"]))

    def test_wrong_settings_are_told_by_field(self):
        self.assertEqual(list(problems({"versions": ["17"]})), [])
        self.assertEqual([field for field, _ in problems({"versions": 17, "max": 1})], ["max", "versions"])

    def test_a_dsn_has_everything_encoded_that_a_uri_would_take_for_its_own(self):
        self.assertEqual(
            dsn("::1", 5432, "my db", "me", "p@ss:/"), "postgresql://me:p%40ss%3A%2F@[::1]:5432/my%20db"
        )


if __name__ == "__main__":
    unittest.main()
