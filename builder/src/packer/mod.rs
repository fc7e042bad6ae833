//! Packer: what it is told, how it is run, what it says.
//!
//! - `template`: the JSON it gets. Every version reads that form; HCL2 differs from version to version.
//! - `version`: which packer there is and whether it can make images of EC2.
//! - `capabilities`: which keys its builder has.
//! - `events`: its machine-readable lines as values.
//! - `scrub`: takes secrets out of what it prints, because not every version does.

pub mod capabilities;
pub mod events;
pub mod scrub;
pub mod template;
pub mod version;

/// The tag on everything that lives as long as one bake. Its value is the run's id.
pub const RUN_TAG: &str = "kiln_run";

/// The names of a run's key pairs: of the bake itself, and of the two instances that prove its image.
pub fn key_pairs(run: &str) -> [String; 3] {
    [run.to_owned(), format!("{run}-1"), format!("{run}-2")]
}
