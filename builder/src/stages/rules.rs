//! What may be promoted, what comes before what, and which image then has which stage. All pure.

use super::line::Logical;
use crate::aws::{Copied, Version};
use crate::images::base;
use crate::images::base::PROOF_TAG;

pub use crate::images::base::STAGE_TAG;

/// How far an image has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// It passed its gate.
    Candidate,
    /// A few machines try it.
    Canary,
    /// It is what machines are to run.
    Production,
    /// It was that before, and is what a rollback goes to.
    Previous,
    /// It has had its day, or was rolled back.
    Retired,
}

impl Stage {
    /// The word in the tag and in the name of the parameter.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Candidate => "candidate",
            Stage::Canary => "canary",
            Stage::Production => "production",
            Stage::Previous => "previous",
            Stage::Retired => base::RETIRED,
        }
    }

    /// The stage that an image has to come from.
    fn before(self) -> Stage {
        match self {
            Stage::Production => Stage::Canary,
            _ => Stage::Candidate,
        }
    }
}

/// The name of the parameter that leads to a line's image in a stage.
pub fn parameter(line: &str, stage: Stage) -> String {
    format!("/kiln/{line}/{}", stage.name())
}

/// What the record of a rollback begins with; that of a promotion begins otherwise.
pub const ROLLED_BACK: &str = "rolled back";
/// What the record of a promotion begins with.
pub const PROMOTED: &str = "promoted";

/// The images that a parameter would go back to, one after the other, and last the one that it has: a
/// rollback takes away what came after its image, so that the next one goes further back and not forth.
pub fn stack(history: &[Version]) -> Vec<&str> {
    let mut stack: Vec<&str> = Vec::new();
    for version in history {
        let image = version.image.as_str();
        if version.record.starts_with(ROLLED_BACK)
            && let Some(position) = stack.iter().rposition(|other| *other == image)
        {
            stack.truncate(position + 1);
        } else if stack.last() != Some(&image) {
            stack.push(image);
        }
    }
    stack
}

/// Why an image must not be promoted to a stage. `forced` skips the order of stages and nothing else.
pub fn refusal(image: &Copied, to: Stage, forced: bool) -> Option<String> {
    let name = &image.name;
    if !image.tag(base::GATE_TAG).starts_with("passed") {
        return Some(format!("{name} did not pass its gate"));
    }
    let proof = image.tag(PROOF_TAG);
    if proof.starts_with("failed") {
        return Some(format!("{name} was launched twice and the proof says: {proof}"));
    }
    let (from, stage) = (to.before().name(), image.tag(STAGE_TAG));
    // What is there already is written once more where it is not complete.
    if stage == to.name() || stage == from {
        return None;
    }
    if to == Stage::Canary && stage == Stage::Production.name() {
        return Some(format!("{name} is in production already"));
    }
    (!forced).then(|| {
        let how = match to {
            Stage::Production if stage == Stage::Candidate.name() => "promote it to canary first, or ".to_owned(),
            _ => String::new(),
        };
        format!("{name} is {stage} and {} takes {from} alone: {how}give --force with a --reason", to.name())
    })
}

/// Of all images of a line, those whose stage is another once `chosen` is in `to` and `before` is what a
/// rollback would go to. Answers names with their new stage.
pub fn restage<'a>(
    line: &'a [Logical],
    home: &str,
    chosen: &str,
    before: Option<&str>,
    to: Stage,
) -> Vec<(&'a Logical, Stage)> {
    // One region that says so is enough: an earlier run may have been cut short there.
    let is = |image: &Logical, stage: Stage| image.places.values().any(|at| at.tag(STAGE_TAG) == stage.name());
    let stage_of = |image: &Logical| -> Option<Stage> {
        if image.name == chosen {
            return Some(to);
        }
        match to {
            // Another one's turn: it may be promoted again.
            Stage::Canary if image.tag(home, STAGE_TAG) == Stage::Production.name() => None,
            Stage::Canary if is(image, Stage::Canary) => Some(Stage::Candidate),
            Stage::Production if before == Some(&image.name) => Some(Stage::Previous),
            Stage::Production if is(image, Stage::Production) || is(image, Stage::Previous) => Some(Stage::Retired),
            _ => None,
        }
    };
    let differs = |image: &Logical, stage: Stage| image.places.values().any(|at| at.tag(STAGE_TAG) != stage.name());
    line.iter()
        .filter_map(|image| Some((image, stage_of(image)?)))
        .filter(|(image, stage)| differs(image, *stage))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(text: &str) -> Vec<Version> {
        let version = |word: &str| match word.strip_prefix('<') {
            Some(image) => Version { image: image.into(), record: "rolled back by sre".into() },
            None => Version { image: word.into(), record: "promoted by sre".into() },
        };
        text.split(' ').map(version).collect()
    }

    #[test]
    fn a_rollback_goes_back_and_never_forth() {
        for (history, expected) in [
            ("a", "a"),
            ("a b c", "a b c"),
            ("a b c <b", "a b"),
            ("a b c <b <a", "a"),
            ("a b c <b c", "a b c"),
            ("a b <a c", "a c"),
            ("a b a", "a b a"),
            ("a a", "a"),
            ("a b <z", "a b z"),
        ] {
            assert_eq!(stack(&versions(history)).join(" "), expected, "{history}");
        }
    }

    fn image(stage: &str, tags: &[(&str, &str)]) -> Copied {
        let mut tags: std::collections::BTreeMap<_, _> =
            tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        tags.insert(STAGE_TAG.into(), stage.into());
        Copied {
            id: "ami-1".into(),
            name: "app-1".into(),
            state: crate::aws::State::Available,
            created: String::new(),
            description: String::new(),
            tags,
            snapshots: vec![],
            deprecated: None,
            plain: false,
        }
    }

    #[test]
    fn only_what_passed_and_comes_from_the_stage_before_is_promoted() {
        let passed = [("gate", "passed 2026")];
        let cases: &[(Copied, Stage, bool, &str)] = &[
            (image("candidate", &[]), Stage::Canary, true, "did not pass its gate"),
            (image("candidate", &[("gate", "passed"), ("proof", "failed: x")]), Stage::Canary, true, "the proof says"),
            (image("candidate", &passed), Stage::Canary, false, ""),
            (image("candidate", &passed), Stage::Production, false, "promote it to canary first, or give --force"),
            (image("candidate", &passed), Stage::Production, true, ""),
            (image("canary", &passed), Stage::Production, false, ""),
            (image("production", &passed), Stage::Production, false, ""),
            (image("retired", &passed), Stage::Canary, false, "app-1 is retired and canary takes candidate alone"),
            (image("production", &passed), Stage::Canary, true, "is in production already"),
        ];
        for (image, to, forced, expected) in cases {
            let said = refusal(image, *to, *forced).unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}\n{expected}");
        }
    }

    #[test]
    fn whoever_was_in_production_is_kept_for_a_rollback_and_whoever_was_kept_retires() {
        let logical = |name: &str, stages: &[&str]| {
            let regions = ["r", "s"].into_iter().zip(stages);
            let places = regions.map(|(region, stage)| (region.to_owned(), image(stage, &[])));
            Logical { name: name.into(), places: places.collect() }
        };
        let line = [
            logical("a", &["previous", "previous"]),
            logical("b", &["production", "production"]),
            logical("c", &["canary", "canary"]),
            logical("d", &["candidate", "candidate"]),
        ];
        let told = |line: &[Logical], chosen: &str, before: Option<&str>, to| {
            let changes = restage(line, "r", chosen, before, to);
            let words: Vec<_> =
                changes.iter().map(|(image, stage)| format!("{}={}", image.name, stage.name())).collect();
            words.join(" ")
        };
        assert_eq!(told(&line, "c", Some("b"), Stage::Production), "a=retired b=previous c=production");
        assert_eq!(told(&line, "a", None, Stage::Production), "a=production b=retired", "a rollback");
        assert_eq!(told(&line, "d", Some("c"), Stage::Canary), "c=candidate d=canary");
        let cut_short = [
            logical("a", &["retired", "previous"]),
            logical("b", &["previous", "production"]),
            logical("c", &["production", "production"]),
        ];
        assert_eq!(told(&cut_short, "c", Some("b"), Stage::Production), "a=retired b=previous");
    }
}
