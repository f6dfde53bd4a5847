//! Counting what a team has against what it may have.

use std::collections::BTreeMap;

use policy_base::settings::Given;
use policy_base::{Holding, Owner};

/// How many instances a team may have that the settings don't name.
const INSTANCES_MAX: u64 = 5;
/// What no host has ports for.
const INSTANCES_LIMIT: u64 = 10_000;

/// How many instances each team may have.
#[derive(Debug, PartialEq, Eq)]
pub struct Quota {
    /// Whoever isn't named; those who are in no team, together.
    others: u64,
    teams: BTreeMap<String, u64>,
}

impl Quota {
    /// Takes the keys `instances_max` and `teams`.
    pub(crate) fn take(given: &mut Given) -> Self {
        let others = given
            .take_number("instances_max", 0, INSTANCES_LIMIT)
            .unwrap_or(INSTANCES_MAX);
        let mut teams = BTreeMap::new();
        for (team, max) in given.take_object("teams") {
            match max.as_u64().filter(|max| *max <= INSTANCES_LIMIT) {
                Some(max) => {
                    teams.insert(team, max);
                }
                None => given.refuse(
                    format!("teams.{team}"),
                    format!("must be a whole number from 0 to {INSTANCES_LIMIT}"),
                ),
            }
        }
        Self { others, teams }
    }

    /// May this team have one more, beside what there is?
    ///
    /// # Errors
    /// If not: who has how many, and what to do.
    pub(crate) fn check(&self, team: Option<&str>, holdings: &[Holding]) -> Result<(), String> {
        let max = team.and_then(|team| self.teams.get(team)).unwrap_or(&self.others);
        let (who, has) = match team {
            Some(team) => (format!("the team {team}"), "has"),
            None => ("those who are in no team".into(), "have"),
        };
        if *max == 0 {
            return Err(format!(
                "{who} may have no instances: ask whoever keeps this policy's settings for a quota"
            ));
        }
        let team_of = |holding: &Holding| holding.owner.as_ref().and_then(|owner| owner.team.clone());
        let own: Vec<&Holding> = holdings
            .iter()
            .filter(|holding| team_of(holding).as_deref() == team)
            .collect();
        let Some(oldest) = own.first().filter(|_| own.len() as u64 >= *max) else {
            return Ok(());
        };
        Err(format!(
            "{who} {has} {count} of {max} instances ({makers}): drop one that nobody needs, perhaps the oldest, {id} of \
             {created_at}, or ask whoever keeps this policy's settings for more",
            count = own.len(),
            makers = makers(&own),
            id = oldest.id,
            created_at = oldest.created_at,
        ))
    }
}

/// Who made how many, whoever has most first.
fn makers(holdings: &[&Holding]) -> String {
    let mut counts = BTreeMap::new();
    for holding in holdings {
        *counts.entry(maker(holding.owner.as_ref())).or_insert(0_u64) += 1;
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let counts = counts.iter().map(|(maker, count)| format!("{count} by {maker}"));
    counts.collect::<Vec<_>>().join(", ")
}

/// A client says itself what it is called: whatever it says stays one word among others.
fn maker(owner: Option<&Owner>) -> String {
    match owner {
        Some(Owner {
            client: Some(client), ..
        }) => format!("{client:?}"),
        Some(_) => "the command line".into(),
        None => "somebody unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(settings: &str) -> Result<Quota, Vec<String>> {
        let mut given = Given::parse(settings);
        let quota = Quota::take(&mut given);
        given
            .finish(quota)
            .map_err(|problems| problems.into_iter().map(|problem| problem.field).collect())
    }

    fn holding(id: &str, team: Option<&str>, client: Option<&str>) -> Holding {
        Holding {
            id: id.into(),
            owner: Some(Owner {
                team: team.map(Into::into),
                client: client.map(Into::into),
                machine: "build".into(),
                process_id: 1,
            }),
            created_at: "2026-11-25T10:00:00Z".into(),
        }
    }

    #[test]
    fn a_team_may_have_what_it_is_given_and_others_what_all_have() {
        let quota = quota(r#"{ "instances_max": 1, "teams": { "web": 2, "guests": 0 } }"#).expect("they fit");
        let one = [holding("a", Some("web"), None)];
        assert_eq!(quota.check(Some("web"), &one), Ok(()));
        assert_eq!(quota.check(Some("mail"), &one), Ok(()), "that is another team's");
        assert_eq!(quota.check(None, &one), Ok(()), "or somebody's in a team");
        quota
            .check(Some("mail"), &[holding("a", Some("mail"), None)])
            .expect_err("one is all");
        let reason = quota.check(Some("guests"), &[]).expect_err("none at all");
        assert!(
            reason.starts_with("the team guests may have no instances: ask "),
            "{reason}"
        );
    }

    #[test]
    fn a_denial_says_who_has_how_many_and_what_to_do() {
        let quota = quota(r#"{ "teams": { "web": 3 } }"#).expect("they fit");
        let full = [
            holding("first", Some("web"), None),
            holding("other", Some("mail"), None),
            holding("second", Some("web"), Some("claude-code")),
            holding("third", Some("web"), Some("claude-code")),
        ];
        assert_eq!(
            quota.check(Some("web"), &full),
            Err(
                "the team web has 3 of 3 instances (2 by \"claude-code\", 1 by the command line): drop one that nobody \
                 needs, perhaps the oldest, first of 2026-11-25T10:00:00Z, or ask whoever keeps this policy's settings for \
                 more"
                    .into()
            )
        );
    }

    #[test]
    fn whoever_is_in_no_team_shares_one_quota_with_what_nobody_knows_the_maker_of() {
        let quota = quota("{}").expect("they fit");
        let unknown = |id: &str| Holding {
            owner: None,
            ..holding(id, None, None)
        };
        let five = ["a", "b", "c", "d", "e"].map(unknown);
        assert_eq!(quota.check(None, &five[1..]), Ok(()));
        let reason = quota.check(None, &five).expect_err("five are all");
        assert!(
            reason.starts_with("those who are in no team have 5 of 5 instances (5 by somebody unknown): "),
            "{reason}"
        );
    }

    #[test]
    fn every_wrong_setting_is_named() {
        assert_eq!(
            quota(r#"{ "instances_max": -1, "teams": { "web": "3", "mail": 3 }, "team": {} }"#),
            Err(vec!["instances_max".into(), "teams.web".into(), "team".into()])
        );
        assert_eq!(quota(r#"{ "teams": 3 }"#), Err(vec!["teams".into()]));
    }
}
