//! What a target of kiln.yaml says of regions and accounts.

use super::Distribution;
use super::check::{Checker, Item, Key, is_account};
use super::types::{Kind, Target};

/// The key that AWS makes for an account. What is encrypted with it cannot be shared.
const AWS_KEY: &str = "alias/aws/ebs";

impl Checker<'_> {
    /// The region of the bake, and what becomes of the image after it.
    pub(super) fn distribution(
        &mut self,
        name: &str,
        target: &Target,
        default_region: Option<&String>,
    ) -> (Option<String>, Distribution) {
        let at = |key| [Key("targets"), Key(name), Key(key)];
        if target.region.is_some() && !target.regions.is_empty() {
            self.report(
                &at("regions"),
                "`region` stands beside it: name that region first here, and leave `region` out",
            );
        }
        for (index, region) in target.regions.iter().enumerate() {
            let at = [Key("targets"), Key(name), Key("regions"), Item(index)];
            if !is_region(region) {
                self.report(&at, format!("`{region}` is no region; they are written as eu-west-1"));
            } else if target.regions[..index].contains(region) {
                self.report(&at, format!("`{region}` stands twice"));
            }
        }
        for (index, account) in target.share_with.iter().enumerate() {
            if !is_account(account) {
                let at = [Key("targets"), Key(name), Key("share_with"), Item(index)];
                self.report(&at, format!("`{account}` is no account: write its 12 digits in quotes"));
            }
        }
        if target.kind == Kind::AmazonInstance && !target.encrypt.is_empty() {
            self.report(&at("encrypt"), "images on an instance store cannot be encrypted with a key: leave this out");
        }
        let first = target.region.as_ref().or(target.regions.first()).or(default_region);
        for (region, key) in &target.encrypt {
            let at = [Key("targets"), Key(name), Key("encrypt"), Key(region)];
            if first != Some(region) && !target.regions.contains(region) {
                self.report(
                    &at,
                    format!("no image of this target is in `{region}`: name it under `regions`, or leave it out"),
                );
            } else if key.trim().is_empty() {
                self.report(&at, "the key is empty: write its id, its ARN or its alias as alias/NAME");
            } else if key.ends_with(AWS_KEY) && !target.share_with.is_empty() {
                let why = format!(
                    "what is encrypted with {AWS_KEY} cannot be shared: use a key of your own, or no `share_with`"
                );
                self.report(&at, why);
            }
        }
        let distribution = Distribution {
            copies: target.regions.iter().skip(1).cloned().collect(),
            share_with: target.share_with.clone(),
            keys: target.encrypt.clone(),
            deprecate_after: target.deprecate_after.map(|span| span.0),
        };
        (first.cloned(), distribution)
    }
}

/// `eu-west-1`, `us-gov-east-1`: words of letters and a number.
fn is_region(text: &str) -> bool {
    let words: Vec<_> = text.split('-').collect();
    let Some((number, words)) = words.split_last() else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let letters = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase());
    words.len() >= 2 && words.iter().all(letters) && digits(number)
}
