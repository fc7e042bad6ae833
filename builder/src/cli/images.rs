//! `kiln images` and `kiln latest`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde_json::json;

use super::{finish, print, run_async};
use crate::aws::Ami;
use crate::bake::Error;
use crate::bake::progress::Format;
use crate::bake::site::Site;
use crate::images::{self, base};
use crate::stages::rules::{STAGE_TAG, Stage};
use crate::stages::{self, line};

/// Arguments of `images`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Whose images; without it, those of the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// Only images in this stage
    #[arg(long, value_enum)]
    stage: Option<Stage>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Arguments of `latest`.
#[derive(Debug, ClapArgs)]
pub struct LatestArgs {
    /// The image, by its name in kiln.yaml
    image: String,
    /// Not the newest that passed, but the one in this stage
    #[arg(long, value_enum)]
    stage: Option<Stage>,
    /// The region whose id is asked for; without it, the one in which images are baked
    #[arg(long, value_name = "REGION", requires = "stage")]
    region: Option<String>,
    /// Where to look; without it, at the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
}

/// The columns, by heading and tag. The first two and the last are no tags.
const TAGS: [(&str, &str); 8] = [
    ("LAYER", "layer"),
    ("ROLE", "role"),
    ("VERSION", "version"),
    ("ANCESTOR", "ancestor"),
    ("STAGE", STAGE_TAG),
    ("GATE", base::GATE_TAG),
    ("PROOF", base::PROOF_TAG),
    ("SEAL SKIPPED", base::SKIPPED_TAG),
];

/// Lists the images that this program made. Exit 0, or 1 when the API does not answer.
pub fn run(file: &Path, args: &Args) -> ExitCode {
    let images = run_async(async {
        let file = images::load(file)?;
        let site = Site::open(file.target(args.target.as_deref())?).await?;
        let mut images = base::all(&site.ec2).await?;
        images.retain(|image| args.stage.is_none_or(|stage| image.tag(STAGE_TAG) == stage.name()));
        Ok(images)
    });
    finish(images.map(|images: Vec<Ami>| match args.format {
        Format::Text => print(&table(&images)),
        Format::Json => images.iter().for_each(|image| print(&format!("{}\n", object(image)))),
    }))
}

/// Prints the id of the newest image of a line that passed its gate, or of the one in a stage. Exit 1 when there is none.
pub fn latest(file: &Path, args: &LatestArgs) -> ExitCode {
    let found = run_async(async {
        let file = images::load(file)?;
        let recipe = file.image(&args.image)?;
        let site = Site::open(file.target(args.target.as_deref())?).await?;
        if let Some(stage) = args.stage {
            return stages::current(&site, &recipe.name, stage, args.region.as_deref()).await;
        }
        let found = base::latest(&site.ec2, recipe).await?;
        let found = found.ok_or_else(|| Error::Refused(line::none_passed(&recipe.label, &site.name)));
        found.map(|image| image.id)
    });
    finish(found.map(|id| print(&format!("{id}\n"))))
}

fn table(images: &[Ami]) -> String {
    if images.is_empty() {
        return "no images yet; bake one: kiln bake IMAGE\n".to_owned();
    }
    let heading = ["NAME", "ID"].into_iter().chain(TAGS.iter().map(|(heading, _)| *heading)).chain(["CREATED"]);
    let mut rows = vec![heading.map(str::to_owned).collect::<Vec<_>>()];
    for image in images {
        let tags = TAGS.iter().map(|(_, tag)| image.tag(tag));
        let cells = [image.name.as_str(), image.id.as_str()].into_iter().chain(tags).chain([image.created.as_str()]);
        rows.push(cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell.to_owned() }).collect());
    }
    let widths: Vec<_> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn object(image: &Ami) -> serde_json::Value {
    let mut object = json!({"name": image.name, "id": image.id});
    for (_, tag) in TAGS {
        object[tag] = image.tags.get(tag).map_or(serde_json::Value::Null, |value| json!(value));
    }
    object["created"] = json!(image.created);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Vec<Ami> {
        let tags = [
            ("layer", "golden"),
            ("version", "12"),
            ("stage", "candidate"),
            ("gate", "passed 2026-11-24T13:44:18Z"),
            ("proof", "off"),
            ("seal_skipped", "mail: a server"),
        ];
        let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let text = str::to_owned;
        vec![Ami {
            id: text("ami-1"),
            name: text("golden-12.0"),
            created: text("2026-11-24T13:44:18.000Z"),
            tags,
            ..Ami::default()
        }]
    }

    #[test]
    fn the_table_has_a_dash_for_what_an_image_lacks() {
        assert_eq!(
            table(&images()),
            "NAME         ID     LAYER   ROLE  VERSION  ANCESTOR  STAGE      GATE                         PROOF  SEAL SKIPPED    CREATED\n\
             golden-12.0  ami-1  golden  -     12       -         candidate  passed 2026-11-24T13:44:18Z  off    mail: a server  2026-11-24T13:44:18.000Z\n"
        );
        assert!(table(&[]).starts_with("no images yet"));
    }

    #[test]
    fn the_json_has_null_for_what_an_image_lacks() {
        let object = object(&images()[0]);
        assert_eq!((&object["role"], &object["layer"]), (&serde_json::Value::Null, &json!("golden")));
    }
}
