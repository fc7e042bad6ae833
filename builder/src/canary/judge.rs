//! What is seen of a canary, to a verdict.

use std::collections::BTreeMap;

use kiln_schema::status::State;

use crate::aws::Instance;

/// All that is known of a canary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its instances, the latest look.
    pub instances: Vec<Instance>,
    /// Those that their group holds for ill.
    pub unhealthy: Vec<String>,
    /// What agents told, by instance: the state of the boot, none for a message without one.
    pub told: BTreeMap<String, Option<State>>,
    /// Whether agents are listened to.
    pub listens: bool,
}

/// How a canary stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing speaks against it.
    Good(String),
    /// Not enough is known: bad if it stays so.
    Waiting(String),
    /// It is bad, and why.
    Bad(String),
}

/// Judges.
pub fn judge(seen: &Seen) -> Standing {
    let mut alive = Vec::new();
    for instance in &seen.instances {
        let Instance { id, state, why, impaired } = instance;
        let because = if why.is_empty() { String::new() } else { format!(" ({why})") };
        match state.as_str() {
            "pending" | "running" => alive.push(instance),
            // What failed puppet shuts down, and a group terminates what it holds for ill.
            _ => return Standing::Bad(format!("{id} is {state}{because}")),
        }
        if *impaired {
            return Standing::Bad(format!("a status check of {id} fails"));
        }
        if seen.unhealthy.contains(id) {
            return Standing::Bad(format!("its auto scaling group holds {id} for unhealthy"));
        }
        match seen.told.get(id) {
            Some(Some(state)) if !matches!(state, State::Done | State::Degraded) => {
                return Standing::Bad(format!("the agent of {id} tells: {}", state.name()));
            }
            _ => {}
        }
    }
    if alive.is_empty() {
        return Standing::Waiting("no instance of it has come up".to_owned());
    }
    if let Some(pending) = alive.iter().find(|instance| instance.state == "pending") {
        return Standing::Waiting(format!("{} is still pending", pending.id));
    }
    let silent = alive.iter().find(|instance| !seen.told.contains_key(&instance.id));
    if let (true, Some(silent)) = (seen.listens, silent) {
        return Standing::Waiting(format!("the agent of {} has not phoned home", silent.id));
    }
    let plural = if alive.len() == 1 { "" } else { "s" };
    let phoned = if seen.listens { ", each phoned home" } else { "" };
    Standing::Good(format!("{} instance{plural} run{}{phoned}", alive.len(), if alive.len() == 1 { "s" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(states: &[&str], listens: bool, told: &[(&str, Option<State>)]) -> Seen {
        let instance = |(number, state): (usize, &&str)| Instance {
            id: format!("i-{number}"),
            state: (*state).to_owned(),
            ..Instance::default()
        };
        Seen {
            instances: states.iter().enumerate().map(instance).collect(),
            unhealthy: vec![],
            told: told.iter().map(|(id, state)| ((*id).to_owned(), *state)).collect(),
            listens,
        }
    }

    #[test]
    fn only_a_canary_that_lives_and_says_so_is_good() {
        let done = Some(State::Done);
        let good = |text: &str| Standing::Good(text.into());
        let waiting = |text: &str| Standing::Waiting(text.into());
        let bad = |text: &str| Standing::Bad(text.into());
        let cases = [
            (seen(&[], false, &[]), waiting("no instance of it has come up")),
            (seen(&["pending"], false, &[]), waiting("i-0 is still pending")),
            (seen(&["running"], false, &[]), good("1 instance runs")),
            (seen(&["running"], true, &[]), waiting("the agent of i-0 has not phoned home")),
            (seen(&["running"], true, &[("i-9", done)]), waiting("the agent of i-0 has not phoned home")),
            (seen(&["running"], true, &[("i-0", None)]), good("1 instance runs, each phoned home")),
            (
                seen(&["running", "running"], true, &[("i-0", done), ("i-1", done)]),
                good("2 instances run, each phoned home"),
            ),
            (seen(&["running", "running"], true, &[("i-0", done)]), waiting("the agent of i-1 has not phoned home")),
            (seen(&["running"], true, &[("i-0", Some(State::Failed))]), bad("the agent of i-0 tells: failed")),
            (seen(&["running"], true, &[("i-0", Some(State::Degraded))]), good("1 instance runs, each phoned home")),
            (seen(&["running", "terminated"], false, &[]), bad("i-1 is terminated")),
            (seen(&["stopping"], false, &[]), bad("i-0 is stopping")),
        ];
        for (seen, expected) in cases {
            assert_eq!(judge(&seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn what_the_api_holds_for_ill_is_bad() {
        let mut ill = seen(&["running"], false, &[]);
        ill.unhealthy.push("i-0".into());
        assert!(matches!(judge(&ill), Standing::Bad(why) if why.contains("unhealthy")));
        let mut impaired = seen(&["running"], false, &[]);
        impaired.instances[0].impaired = true;
        assert!(matches!(judge(&impaired), Standing::Bad(why) if why == "a status check of i-0 fails"));
    }
}
