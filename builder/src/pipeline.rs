//! A pipeline: bake what is out of date, bring what is there on, and tell what came of each image.

use serde_json::{Value, json};

use crate::aws::Ami;
use crate::bake::many::{self, End, Summary, Wanted};
use crate::bake::progress::Progress;
use crate::bake::session::Session;
use crate::bake::{Error, recover};
use crate::stages::rules::{STAGE_TAG, Stage};
use crate::stages::{self, Promotion};
use crate::system::process::Stop;

/// What a pipeline did.
#[derive(Debug, Default)]
pub struct Report {
    /// What the bakes came to.
    pub summary: Summary,
    /// Of each image in the summary, in its order: how it stands to the stage asked for, or why it is not
    /// there. None when nothing was asked for, or there is no image.
    pub promoted: Vec<Option<Result<String, String>>>,
}

/// Bakes, and promotes each image that is there then, whoever made it: a run that was cut short is completed
/// by the next.
///
/// # Errors
/// When nothing could be tried, as in [`many::bake`].
pub async fn run(
    session: &Session<'_>,
    wanted: &Wanted,
    parallel: usize,
    stage: Option<Stage>,
    progress: &Progress,
) -> Result<Report, Error> {
    // Before signals are listened to: what a dead bake left may take minutes, and one that comes then is to end kiln and
    // not to be forgotten until all has been baked.
    recover::all(session, progress).await?;
    let mut stop = Stop::listen().map_err(|error| Error::file("cannot listen for signals", error))?;
    let summary = many::bake(session, wanted, parallel, progress).await?;
    let mut promoted = Vec::new();
    let mut stopped = None;
    for (_, end) in &summary.ends {
        let (Some(stage), End::Baked(image) | End::Unchanged(image)) = (stage, end) else {
            promoted.push(None);
            continue;
        };
        let outcome = match stopped {
            Some(name) => Err(name),
            None => tokio::select! {
                biased;
                // Also when that was during the bakes.
                name = stop.requested() => Err(name),
                outcome = promote(session, image, stage, progress) => Ok(outcome),
            },
        };
        stopped = outcome.as_ref().err().copied();
        promoted.push(Some(outcome.unwrap_or_else(|name| Err(format!("interrupted by {name}")))));
    }
    Ok(Report { summary, promoted })
}

/// Brings one image into a stage. One that has come further stays there.
async fn promote(session: &Session<'_>, image: &Ami, to: Stage, progress: &Progress) -> Result<String, String> {
    if image.tag(STAGE_TAG) == Stage::Production.name() {
        return Ok(format!("in {} already", Stage::Production.name()));
    }
    let wish = Promotion { image: image.id.clone(), to, reason: None, force: false };
    let moved = stages::promote(session.file, &session.site, &wish, progress).await;
    let moved = moved.map_err(|error| error.cause())?;
    if moved.is_complete() {
        return Ok(format!("in {}{}", to.name(), if moved.already { " already" } else { "" }));
    }
    let lacking = moved.regions.iter().filter_map(|at| Some(format!("{}: {}", at.region, at.error.as_ref()?)));
    Err(lacking.collect::<Vec<_>>().join("; "))
}

impl Report {
    /// Whether every image is there, and in the stage that was asked for.
    pub fn is_good(&self) -> bool {
        self.summary.is_good() && !self.promoted.iter().flatten().any(Result::is_err)
    }

    fn images(&self) -> impl Iterator<Item = (&String, &End, Option<&Result<String, String>>)> {
        self.summary.ends.iter().zip(&self.promoted).map(|((name, end), promoted)| (name, end, promoted.as_ref()))
    }

    /// A line an image, for a person.
    pub fn text(&self) -> String {
        let width = self.summary.ends.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(name, end, promoted): (&String, &End, Option<&Result<String, String>>)| {
            let (word, about) = parts(end);
            let about = match promoted {
                None => about.to_owned(),
                Some(Ok(stage)) => format!("{about}  {stage}"),
                Some(Err(why)) => format!("{about}  not promoted: {why}"),
            };
            format!("{name:<width$}  {word:<9}  {about}\n")
        };
        self.images().map(line).collect()
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        let image = |(name, end, promoted): (&String, &End, Option<&Result<String, String>>)| {
            let (word, about) = parts(end);
            let about_key = if matches!(end, End::Baked(_) | End::Unchanged(_)) { "image" } else { "cause" };
            let mut object = json!({"application": name, "bake": word, about_key: about});
            match promoted {
                None => {}
                Some(Ok(stage)) => object["promoted"] = json!(stage),
                Some(Err(why)) => object["not_promoted"] = json!(why),
            }
            object
        };
        json!({"event": "pipeline", "ok": self.is_good(), "images": self.images().map(image).collect::<Vec<_>>()})
    }
}

/// The word for an end, and the image's id or the cause why there is none.
fn parts(end: &End) -> (&'static str, &str) {
    match end {
        End::Baked(image) => ("baked", &image.id),
        End::Unchanged(image) => ("unchanged", &image.id),
        End::Failed(cause) => ("failed", cause),
        End::LeftOut(cause) => ("left out", cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(promoted: Option<Result<String, String>>) -> Report {
        let image = |id: &str| Ami { id: id.to_owned(), ..Ami::default() };
        let ends = [
            ("golden", End::Unchanged(image("ami-1"))),
            ("myapp", End::Baked(image("ami-2"))),
            ("broken", End::Failed("broken: the script no.sh failed with exit code 3".to_owned())),
            ("late", End::LeftOut("there is no new broken to build it on".to_owned())),
        ];
        let ends = ends.map(|(name, end)| (name.to_owned(), end)).to_vec();
        let summary = Summary { baked: 1, unchanged: 1, failed: 1, left_out: 1, incomplete: 0, ends };
        Report { summary, promoted: vec![Some(Ok("in production already".to_owned())), promoted, None, None] }
    }

    #[test]
    fn each_image_has_a_line_with_its_end_and_its_stage() {
        assert_eq!(
            report(Some(Ok("in canary".to_owned()))).text(),
            "golden  unchanged  ami-1  in production already\n\
             myapp   baked      ami-2  in canary\n\
             broken  failed     broken: the script no.sh failed with exit code 3\n\
             late    left out   there is no new broken to build it on\n"
        );
    }

    #[test]
    fn a_program_gets_each_image_with_either_its_id_or_the_cause() {
        let told = report(Some(Err("ami-2 did not pass its gate".to_owned()))).json();
        assert_eq!(told["ok"], false);
        assert_eq!(
            told["images"][1],
            json!({
                "application": "myapp", "bake": "baked", "image": "ami-2",
                "not_promoted": "ami-2 did not pass its gate",
            })
        );
        assert_eq!(told["images"][3]["cause"], "there is no new broken to build it on");
    }

    #[test]
    fn an_image_that_is_not_promoted_fails_the_pipeline_that_asked_for_it() {
        let good = |promoted| {
            let mut report = report(promoted);
            report.summary.ends.truncate(2);
            (report.summary.failed, report.summary.left_out) = (0, 0);
            report.is_good()
        };
        assert!(good(Some(Ok("in canary".to_owned()))) && good(None));
        assert!(!good(Some(Err("no".to_owned()))));
    }
}
