//! `kiln outdated`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde_json::json;

use super::{finish, print, run_async};
use crate::bake::progress::Format;
use crate::bake::site::Site;
use crate::images::outdated::{self, Row, What};
use crate::images::{self, graph::Graph};

/// Exit code when something is out of date.
const OUTDATED: u8 = 2;

/// Arguments of `outdated`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Exits 0 when nothing is out of date, 2 when something is, 1 when that cannot be told.")]
pub struct Args {
    /// Where to look; without it, at the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Says what moved. Exit 0 when nothing is out of date, [`OUTDATED`] when something is, 1 when the API does not answer.
pub fn run(file: &Path, args: &Args) -> ExitCode {
    let looked = run_async(async {
        let file = images::load(file)?;
        let target = file.target(args.target.as_deref())?;
        let site = Site::open(target).await?;
        Ok(outdated::look(&site.ec2, &Graph::at(&file, target), file.lock.as_ref(), &site.title()).await?)
    });
    let rows: Vec<Row> = match looked {
        Ok(rows) => rows,
        Err(error) => return finish(Err(error)),
    };
    match args.format {
        Format::Text => print(&sentences(&rows)),
        Format::Json => rows.iter().for_each(|row| print(&format!("{}\n", object(row)))),
    }
    if rows.iter().any(|row| row.state.is_outdated()) { ExitCode::from(OUTDATED) } else { ExitCode::SUCCESS }
}

fn word(what: What) -> &'static str {
    match what {
        What::Base => "base",
        What::Image => "image",
    }
}

/// A sentence a row that is out of date, with the command that helps below it.
fn sentences(rows: &[Row]) -> String {
    let told = rows.iter().filter_map(|row| {
        let why = row.why().filter(|_| row.state.is_outdated())?;
        let remedy = row.remedy().map(|command| format!("    {command}\n")).unwrap_or_default();
        Some(format!("{} {}: {why}\n{remedy}", word(row.what), row.image))
    });
    let text: String = told.collect();
    if text.is_empty() { "nothing is out of date\n".to_owned() } else { text }
}

fn object(row: &Row) -> serde_json::Value {
    let named = |it: &Option<(String, String)>| it.as_ref().map(|(id, name)| json!({"id": id, "name": name}));
    json!({
        "image": row.image, "what": word(row.what), "state": row.state.name(), "outdated": row.state.is_outdated(),
        "has": named(&row.has), "newest": named(&row.newest), "why": row.why(), "do": row.remedy(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::outdated::State;

    fn row(what: What, state: State) -> Row {
        let named = |id: &str, name: &str| Some((id.to_owned(), name.to_owned()));
        Row { image: "golden".into(), what, state, has: named("ami-1", "old"), newest: named("ami-2", "new") }
    }

    #[test]
    fn only_what_is_out_of_date_is_told_to_people_and_all_to_programs() {
        let rows = [row(What::Base, State::Moved), row(What::Image, State::Current), row(What::Image, State::Stale)];
        assert_eq!(
            sentences(&rows),
            "base golden: old (ami-1) is locked, new (ami-2) is newer\n    kiln lock golden --update\n\
             image golden: built on old (ami-1), a bake takes new (ami-2)\n    kiln bake golden\n"
        );
        assert_eq!(sentences(&rows[1..2]), "nothing is out of date\n");
        assert_eq!(
            object(&rows[1]),
            json!({
                "image": "golden", "what": "image", "state": "current", "outdated": false,
                "has": {"id": "ami-1", "name": "old"}, "newest": {"id": "ami-2", "name": "new"}, "why": null, "do": null,
            })
        );
    }
}
