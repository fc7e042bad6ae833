//! What an image is to be in a region, and what it lacks there.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::aws::{self, Copied, Copies, State};
use crate::images::{Distribution, base};

/// The tag on a copy with the id of its original.
pub const COPIED_FROM: &str = "copied_from";

/// EC2 keeps dates of deprecation to the minute, and takes none that is past when it arrives.
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const SOON: SignedDuration = SignedDuration::from_mins(5);

/// An image as it is to be in every region.
#[derive(Debug)]
pub struct Wanted {
    /// As it is where it was baked.
    pub original: Copied,
    /// The region in which that is.
    pub region: String,
    /// What else it is to have.
    pub distribution: Distribution,
}

/// What an image lacks in a region.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Tags, but for the last.
    pub tags: BTreeMap<String, String>,
    /// Accounts that may not use it yet.
    pub accounts: Vec<String>,
    /// A date.
    pub deprecation: Option<Timestamp>,
    /// The tag that says that it passed, which is written last.
    pub gate: Option<String>,
    /// Whether it cannot be launched yet.
    pub available: bool,
    /// The key that it was to be encrypted with. What is there cannot be changed.
    pub key: Option<String>,
}

impl Lacks {
    /// Whether all is there.
    pub fn is_nothing(&self) -> bool {
        *self == Lacks::default()
    }
}

impl Wanted {
    /// An image that passed where it was baked.
    pub fn of(original: Copied, region: &str, distribution: &Distribution) -> Wanted {
        Wanted { original, region: region.to_owned(), distribution: distribution.clone() }
    }

    /// The tags that it has in a region. Those of AWS are its own to give.
    pub fn tags(&self, region: &str) -> BTreeMap<String, String> {
        let ours = self.original.tags.iter().filter(|(key, _)| !key.starts_with("aws:"));
        let mut tags: BTreeMap<_, _> = ours.map(|(key, value)| (key.clone(), value.clone())).collect();
        if region != self.region {
            tags.insert(COPIED_FROM.to_owned(), self.original.id.clone());
        }
        tags
    }

    /// When it ceases to be offered: counted from when it was made, not from when it was copied.
    pub fn deprecation(&self) -> Option<Timestamp> {
        let after = SignedDuration::try_from(self.distribution.deprecate_after?).ok()?;
        self.original.created.parse::<Timestamp>().ok()?.checked_add(after).ok()
    }

    /// The image of a region and what it lacks.
    pub async fn look(&self, api: &impl Copies, region: &str) -> Result<(Option<Copied>, Lacks), aws::Error> {
        let found = api.named(&self.original.name).await?;
        let Some(image) = self.ours(found, region) else { return Ok((None, Lacks::default())) };
        // One account fewer to ask for.
        let shared = match self.distribution.share_with.is_empty() || image.state != State::Available {
            true => Vec::new(),
            false => api.shared(&image).await?.into_iter().collect(),
        };
        let lacks = self.lacks(&image, region, &shared, Timestamp::now());
        Ok((Some(image), lacks))
    }

    /// Of the images of this name the one that counts: not a failed one, and at home the original.
    pub fn ours(&self, found: Vec<Copied>, region: &str) -> Option<Copied> {
        if region == self.region {
            return found.into_iter().find(|image| image.id == self.original.id);
        }
        let mut usable: Vec<_> = found.into_iter().filter(|image| !matches!(image.state, State::Failed(_))).collect();
        // One is all that EC2 allows; where there are more, always the same.
        usable.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        usable.into_iter().next()
    }

    /// What this image of a region lacks, when these accounts may use it.
    pub fn lacks(&self, image: &Copied, region: &str, shared: &[String], now: Timestamp) -> Lacks {
        let mut tags = self.tags(region);
        tags.retain(|key, value| image.tags.get(key) != Some(value));
        let gate = tags.remove(base::GATE_TAG);
        let accounts = self.distribution.share_with.iter().filter(|account| !shared.contains(account));
        let has = image.deprecated.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
        let soon = now.checked_add(SOON).unwrap_or(now);
        let deprecation = self.deprecation().and_then(|wanted| match has {
            // Its day has come, and it has been told that it comes: no later date is wanted.
            Some(has) if wanted <= soon && has <= soon => None,
            Some(has) if has.duration_since(wanted).abs() <= MINUTE => None,
            _ => Some(wanted.max(soon)),
        });
        Lacks {
            tags,
            accounts: accounts.cloned().collect(),
            deprecation,
            gate,
            available: image.state != State::Available,
            key: self.distribution.keys.get(region).filter(|_| image.plain).cloned(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in crate::regions) fn image(id: &str, tags: &[(&str, &str)]) -> Copied {
        Copied {
            id: id.into(),
            name: "app-1.0-x86_64-20260101T000000Z-ebs".into(),
            state: State::Available,
            created: "2026-01-01T00:00:00.000Z".into(),
            description: "app=app".into(),
            tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            snapshots: vec!["snap-1".into()],
            deprecated: None,
            plain: false,
        }
    }

    pub(in crate::regions) fn wanted(distribution: Distribution) -> Wanted {
        let tags = [("application", "app"), ("gate", "passed x"), ("aws:who", "aws")];
        Wanted::of(image("ami-home", &tags), "us-east-1", &distribution)
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_copy_has_the_tags_of_its_original_and_where_it_is_from() {
        let wanted = wanted(Distribution::default());
        let now = time("2026-01-02T00:00:00Z");
        let bare = wanted.lacks(&image("ami-2", &[]), "eu-west-1", &[], now);
        assert_eq!(
            bare.tags,
            [("application", "app"), (COPIED_FROM, "ami-home")].map(|(k, v)| (k.into(), v.into())).into()
        );
        assert_eq!(bare.gate.as_deref(), Some("passed x"), "it is written after all else");
        let tags = [("application", "app"), (COPIED_FROM, "ami-home"), ("gate", "passed x"), ("theirs", "1")];
        assert!(wanted.lacks(&image("ami-2", &tags), "eu-west-1", &[], now).is_nothing());
        assert!(wanted.lacks(&wanted.original, "us-east-1", &[], now).is_nothing());
    }

    #[test]
    fn the_date_counts_from_the_original_and_is_never_past() {
        let wanted =
            wanted(Distribution { deprecate_after: Some(Duration::from_secs(86400)), ..Distribution::default() });
        let lacks = |deprecated: Option<&str>, now: &str| {
            let image = Copied { deprecated: deprecated.map(str::to_owned), ..wanted.original.clone() };
            wanted.lacks(&image, "us-east-1", &[], time(now)).deprecation
        };
        let (before, after) = ("2026-01-01T01:00:00Z", "2026-03-01T00:00:00Z");
        assert_eq!(lacks(None, before), Some(time("2026-01-02T00:00:00Z")));
        assert_eq!(lacks(Some("2026-01-02T00:00:00.000Z"), before), None);
        assert_eq!(lacks(Some("2026-01-05T00:00:00.000Z"), before), Some(time("2026-01-02T00:00:00Z")));
        assert_eq!(lacks(None, after), Some(time("2026-03-01T00:05:00Z")));
        assert_eq!(lacks(Some("2026-03-01T00:05:00.000Z"), after), None, "as it was just set");
        assert_eq!(lacks(Some("2026-01-02T00:00:00.000Z"), after), None);
    }

    #[test]
    fn what_is_to_be_encrypted_and_is_not_lacks_its_key() {
        let keys = [("eu-west-1".to_owned(), "alias/ours".to_owned())].into_iter().collect();
        let wanted = wanted(Distribution { keys, ..Distribution::default() });
        let key = |region: &str, plain| {
            let image = Copied { plain, ..image("ami-2", &[]) };
            wanted.lacks(&image, region, &[], time("2026-01-02T00:00:00Z")).key
        };
        assert_eq!(key("eu-west-1", true).as_deref(), Some("alias/ours"));
        assert_eq!((key("eu-west-1", false), key("us-east-1", true)), (None, None));
    }

    #[test]
    fn a_failed_copy_does_not_count_and_of_two_always_the_same_does() {
        let wanted = wanted(Distribution::default());
        let failed = Copied { state: State::Failed("failed".into()), ..image("ami-1", &[]) };
        let later = Copied { created: "2026-01-03T00:00:00.000Z".into(), ..image("ami-2", &[]) };
        let found = vec![failed.clone(), later, image("ami-3", &[])];
        assert_eq!(wanted.ours(found, "eu-west-1").unwrap().id, "ami-3");
        assert_eq!(wanted.ours(vec![failed], "eu-west-1"), None);
    }
}
