//! What a bake left that was killed: its image if the gate had vouched for it, and nothing else.

use std::path::Path;

use kiln_lab::Identity;
use kiln_schema::gate::Verdict;

use super::progress::Progress;
use super::session::Session;
use super::site::Site;
use super::{Error, leftovers, report, watch};
use crate::aws::{self, FindImages, ImageQuery, Leases, Run};
use crate::images::base;
use crate::journal::Entry;
use crate::packer::template::files as names;
use crate::packer::{RUN_TAG, events};
use crate::system::files;
use crate::system::process::{self, CLEAN_UP};

/// Settles every bake of this machine at this place whose kiln is dead, and says what became of it.
///
/// # Errors
/// When the journal cannot be read or written. What the API does not answer is told, and stays in the
/// journal for the next time.
pub async fn all(session: &Session<'_>, progress: &Progress) -> Result<(), Error> {
    while let Some(entry) = session.journal.adopt(&session.site.place())? {
        let (outcome, told) = settle(&session.site, &entry).await;
        progress.say(&format!("a bake of {} was killed ({}): {told}", entry.image, entry.run));
        if let Some(outcome) = outcome {
            session.journal.end(&entry.run, &outcome)?;
        }
    }
    Ok(())
}

/// What becomes of a killed bake: the outcome for the journal, none when it could not be settled, and a
/// sentence.
async fn settle(site: &Site, entry: &Entry) -> (Option<String>, String) {
    let work = entry.report.join(report::WORK);
    end_packer(entry.packer, &work).await;
    let security_group = security_group(&work.join(names::OUTPUT), &entry.image);
    // Without its report nobody knows what the gate said.
    let _ = report::unpack(&work, &entry.report);
    let scrubber = report::and_secrets_of(&work, super::packer::scrubber(site));
    if let Err(error) = report::scrub(&work, &entry.report, &scrubber) {
        return (None, error.to_string());
    }
    let passed = report::read(&entry.report).is_some_and(|report| report.verdict == Verdict::Passed);
    let image = if passed { image(site, &entry.name, &entry.tags).await } else { Ok(None) };
    let kept = image.as_ref().ok().and_then(Option::as_deref);
    let run = Run { id: &entry.run, image_name: &entry.name, security_group: security_group.as_deref() };
    if let Err(error) = &image {
        return (None, format!("its image cannot be looked for: {error}"));
    }
    let left = leftovers::remove(&site.ec2, run, kept).await;
    if left.iter().any(|sentence| !sentence.ends_with(leftovers::REMOVED)) {
        return (None, left.join("; "));
    }
    // Its lease would be waited out by others.
    for held in site.ec2.held_with((RUN_TAG, &entry.run)).await.unwrap_or_default() {
        let _ = site.ec2.release(&held.id).await;
    }
    let _ = files::remove_dir(&work);
    let mut told = left;
    if let Some(id) = kept {
        if let Err(error) = site.ec2.tag(id, &[(base::GATE_TAG, &passed_now())]).await {
            return (None, format!("{id} cannot be marked as passed: {error}"));
        }
        told.push(format!("its image {id} had passed the gate and is kept"));
    } else if told.is_empty() {
        told.push("nothing of it was left".to_owned());
    }
    (Some(kept.map_or_else(|| "reaped".to_owned(), |id| format!("adopted {id}"))), told.join("; "))
}

/// The value of the tag on an image that passed.
pub fn passed_now() -> String {
    format!("passed {}", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"))
}

/// The image of this name, available and with all its tags; none when there is no such image.
///
/// # Errors
/// When the API does not answer, or the image does not become available.
pub async fn image(site: &Site, name: &str, tags: &[(String, String)]) -> Result<Option<String>, aws::Error> {
    let query = ImageQuery { owners: vec!["self".to_owned()], filters: vec![("name".into(), vec![name.to_owned()])] };
    let Some(image) = site.ec2.find_images(&query).await?.into_iter().next() else { return Ok(None) };
    site.ec2.until_available(&image.id).await?;
    let tags: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    site.ec2.tag(&image.id, &tags).await?;
    Ok(Some(image.id))
}

/// The image of this name, if its gate has vouched for it.
///
/// # Errors
/// When the API does not answer.
pub async fn passed(site: &Site, name: &str) -> Result<Option<String>, aws::Error> {
    let filters =
        vec![("name".into(), vec![name.to_owned()]), (format!("tag:{}", base::GATE_TAG), vec!["passed*".into()])];
    let found = site.ec2.find_images(&ImageQuery { owners: vec!["self".to_owned()], filters }).await?;
    Ok(found.into_iter().next().map(|image| image.id))
}

/// Lets packer clean up if it still runs, and ends whatever of it works on without it.
async fn end_packer(packer: Option<Identity>, work: &Path) {
    let work = work.to_owned();
    // It may take minutes: on a thread of its own.
    let ended = tokio::task::spawn_blocking(move || {
        if let Some(packer) = packer {
            packer.end(CLEAN_UP);
        }
        process::end_all_within(&work);
    });
    let _ = ended.await;
}

/// The name of the security group that packer announced, which not every version of it tags.
fn security_group(output: &Path, image: &str) -> Option<String> {
    let said = std::fs::read_to_string(output).ok()?;
    said.lines().flat_map(events::parse).find_map(|event| watch::security_group(&event, image))
}
