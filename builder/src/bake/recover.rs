//! What a bake left that was killed: its image if the gate had vouched for it, and nothing else.

use std::path::Path;

use kiln_lab::Identity;
use kiln_schema::gate::Verdict;

use super::progress::Progress;
use super::session::Session;
use super::site::Site;
use super::{Error, lease, leftovers, proof, report, watch};
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
        // Others may have found its lease dead, and would take away what this is about to vouch for.
        let (outcome, told) = match lease::hold(&session.site.ec2, &lease::settling(&entry.run), progress).await {
            Ok(lease) => lease.during(&session.site.ec2, settle(&session.site, &entry)).await,
            Err(error) => (None, format!("it cannot be settled now: {error}")),
        };
        progress.say(&format!("a bake of {} did not come to its end ({}): {told}", entry.image, entry.run));
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
    let security_groups = security_groups(&work, &entry.image);
    // Without its report nobody knows what the gate said.
    let _ = report::unpack(&entry.image, &work, &report::home(&work));
    let scrubber = report::and_secrets_of(&work, super::packer::scrubber(site));
    if let Err(error) = report::deliver(&work, &entry.report, &scrubber) {
        return (None, error.to_string());
    }
    let gated = report::read(&entry.report).is_some_and(|report| report.verdict == Verdict::Passed);
    let passed = |id: &str| gated && proof::stands(&entry.report, &entry.tags, id);
    let image = image(site, &entry.name, &entry.tags, passed).await;
    let kept = image.as_ref().ok().and_then(Option::as_deref);
    let run = Run { id: &entry.run, image_name: &entry.name, security_groups: &security_groups };
    if let Err(error) = &image {
        return (None, format!("its image cannot be looked for: {error}"));
    }
    let left = leftovers::remove(&site.ec2, run, kept).await;
    if !leftovers::is_settled(&left) {
        return (None, left.join("; "));
    }
    let _ = files::remove_dir(&work);
    let mut told = left;
    if let Some(id) = kept {
        if let Err(error) = mark_passed(site, id, &entry.tags).await {
            return (None, format!("{id} cannot be marked as passed: {error}"));
        }
        told.push(format!("its image {id} had passed and is kept"));
    } else if told.is_empty() {
        told.push("nothing of it was left".to_owned());
    }
    // Others would wait its lease out. It goes last: whoever has it next must find the image marked, or there
    // would be a second one.
    for held in site.ec2.held_with((RUN_TAG, &entry.run)).await.unwrap_or_default() {
        let _ = site.ec2.release(&held.id).await;
    }
    (Some(kept.map_or_else(|| "reaped".to_owned(), |id| format!("adopted {id}"))), told.join("; "))
}

/// The last word on an image: only with this is it a base for others, or the latest of its line. Its tags
/// say whether somebody has proved it.
///
/// # Errors
/// When the API refuses.
pub async fn mark_passed(site: &Site, id: &str, tags: &[(String, String)]) -> Result<(), aws::Error> {
    let passed = format!("passed {}", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"));
    let mut last = vec![(base::GATE_TAG, passed.as_str())];
    if !proof::is_off(tags) {
        last.push((base::PROOF_TAG, &passed));
    }
    site.ec2.tag(id, &last).await
}

/// The image of this name, available and with all its tags; none when there is no such image, or it is not wanted.
///
/// # Errors
/// When the API does not answer, or the image does not become available.
pub async fn image(
    site: &Site,
    name: &str,
    tags: &[(String, String)],
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<String>, aws::Error> {
    let query = ImageQuery { owners: vec!["self".to_owned()], filters: vec![("name".into(), vec![name.to_owned()])] };
    let Some(image) = site.ec2.find_images(&query).await?.into_iter().find(|image| wanted(&image.id)) else {
        return Ok(None);
    };
    site.ec2.until_available(&image.id).await?;
    let tags: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    site.ec2.tag(&image.id, &tags).await?;
    Ok(Some(image.id))
}

/// The image of this name, if its gate has vouched for it.
///
/// # Errors
/// When the API does not answer.
pub async fn passed(api: &impl FindImages, name: &str) -> Result<Option<String>, aws::Error> {
    let filters =
        vec![("name".into(), vec![name.to_owned()]), (format!("tag:{}", base::GATE_TAG), vec!["passed*".into()])];
    let found = api.find_images(&ImageQuery { owners: vec!["self".to_owned()], filters }).await?;
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
        process::end_all_within(&work, "packer");
    });
    let _ = ended.await;
}

/// The names of the security groups that packer announced in this folder, which not every version of it tags.
pub fn security_groups(work: &Path, image: &str) -> Vec<String> {
    let proof = work.join(proof::FOLDER);
    let runs = [(work, vec![image.to_owned()]), (&proof, proof::builds(image).into())];
    let mut found = Vec::new();
    for (folder, builds) in runs {
        let said = std::fs::read_to_string(folder.join(names::OUTPUT)).unwrap_or_default();
        let events: Vec<_> = said.lines().flat_map(events::parse).collect();
        let of = |build: &String| events.iter().find_map(|event| watch::security_group(event, build));
        found.extend(builds.iter().filter_map(of));
    }
    found
}
