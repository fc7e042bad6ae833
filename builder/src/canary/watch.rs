//! Looking at a canary until its time is over.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::judge::{Seen, Standing, judge};
use super::{Place, Record, Which, alone, keep, receiver, stop_at};
use crate::aws::{self, FindImages, Fleet, ImageQuery, Scaling};
use crate::bake::Error;
use crate::bake::progress::Progress;
use crate::bake::site::Site;
use crate::system::process::Stop;

/// How often the API is asked, which cannot wake anybody.
const LOOK: Duration = Duration::from_secs(5);

/// How to watch.
pub struct Watch {
    /// How long.
    pub time: Duration,
    /// Where to listen to agents.
    pub listen: Option<SocketAddr>,
    /// The key of their signatures.
    pub key: Option<Vec<u8>>,
    /// Whether a bad one is stopped.
    pub rollback: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Verdict {
    /// Whether it is good.
    pub good: bool,
    /// Why.
    pub why: String,
    /// The image.
    pub image: String,
    /// Its instances.
    pub instances: Vec<String>,
    /// What was done about a bad one.
    pub stopped: Option<String>,
    /// The parameter by which instances took their image before a good one, and are to again.
    pub parameter: Option<String>,
}

/// Watches a canary: bad as soon as anything says so, good when the time is over and nothing did. One that
/// nobody has seen alive is bad.
///
/// # Errors
/// When none is under way, or of another line, when it is interrupted, and when the API does not answer at
/// the end; a look that fails before is told and tried again.
pub async fn watch(
    site: &Site,
    line: &str,
    which: &Which,
    watch: Watch,
    progress: &Progress,
) -> Result<Verdict, Error> {
    let groups = site.door.groups(&site.region).await;
    let place = Place::find(site, which).await?;
    let record = place.record()?.ok_or_else(|| place.nothing())?;
    of_line(site, line, &record.image, &place).await?;
    let mut signals = Stop::listen().map_err(|error| Error::file("cannot listen for signals", error))?;
    let mut seen = Seen { listens: watch.listen.is_some(), ..Seen::default() };
    let mut messages = None;
    if let Some(address) = watch.listen {
        let (bound, received) = receiver::listen(address, watch.key).await?;
        progress.say(&format!("listening on http://{bound}/ for `phone_home: {{url: …, format: json}}`"));
        messages = Some(received);
    }
    let end = Instant::now() + watch.time;
    let mut said = None;
    let standing = loop {
        let last = Instant::now() >= end;
        match look(&site.ec2, &groups, &place, &record, &mut seen).await {
            Err(error) if last => return Err(error.into()),
            Err(error) => progress.say(&format!("{error}; looking again")),
            Ok(()) => {
                let standing = judge(&seen);
                if last || matches!(standing, Standing::Bad(_)) {
                    break standing;
                }
                if said.as_ref() != Some(&standing) {
                    let (Standing::Good(text) | Standing::Waiting(text) | Standing::Bad(text)) = &standing;
                    progress.say(text);
                    said = Some(standing);
                }
            }
        }
        let next = end.min(Instant::now() + LOOK);
        tokio::select! {
            () = sleep_until(next) => {}
            Some((id, state)) = hear(&mut messages) => {
                seen.told.insert(id, state);
            }
            name = signals.requested() => {
                return Err(Error::Refused(format!("interrupted by {name}: nothing is decided, and {place} still tries {}", record.image)));
            }
        }
    };
    let (good, why) = match standing {
        Standing::Good(why) => (true, why),
        Standing::Waiting(why) => (false, format!("{why}, and the time is over")),
        Standing::Bad(why) => (false, why),
    };
    let (mut stopped, mut parameter) = (None, None);
    if good || watch.rollback {
        // Long after the first look: whatever is tried there now may be another.
        let ended = alone(site, which, progress, async |place| {
            place.still(&record)?;
            match good {
                true => parameter = keep(&site.ec2, &place, &record).await?,
                false => stopped = Some(stop_at(&site.ec2, &groups, &place).await?),
            }
            Ok(())
        });
        ended.await.map_err(|error| Error::Refused(format!("{why}, but {error}")))?;
    }
    let instances = seen.instances.into_iter().map(|instance| instance.id).collect();
    Ok(Verdict { good, why, image: record.image, instances, stopped, parameter })
}

/// Refuses the canary of another line.
async fn of_line(site: &Site, line: &str, image: &str, place: &Place) -> Result<(), Error> {
    let query = ImageQuery { owners: vec!["self".into()], filters: vec![("image-id".into(), vec![image.into()])] };
    let found = site.ec2.find_images(&query).await?.into_iter().next();
    match found {
        Some(found) if found.tag("application") == line => Ok(()),
        Some(found) => {
            let other = found.tag("application");
            Err(Error::Refused(format!("{place} tries {image}, an image of {other} and not of {line}")))
        }
        None => Err(Error::Refused(format!("{place} tries {image}, which is gone: kiln canary stop"))),
    }
}

async fn look(
    fleet: &impl Fleet,
    groups: &impl Scaling,
    place: &Place,
    record: &Record,
    seen: &mut Seen,
) -> Result<(), aws::Error> {
    seen.instances = fleet.instances(&record.image, record.began).await?;
    if let Some(name) = &place.group {
        seen.unhealthy = groups.group(name).await?.map(|group| group.unhealthy).unwrap_or_default();
    }
    Ok(())
}

async fn hear(
    messages: &mut Option<tokio::sync::mpsc::UnboundedReceiver<receiver::Message>>,
) -> Option<receiver::Message> {
    match messages {
        Some(messages) => messages.recv().await,
        None => std::future::pending().await,
    }
}
