//! Where a bake happens: a target of kiln.yaml, resolved to addresses.

use kiln_lab::Access;

use super::Error;
use crate::aws::{Door, Ec2};
use crate::images::{Distribution, Endpoint, Target};
use crate::packer::template::Api;

/// A target that can be talked to.
pub struct Site {
    /// As a sentence names it.
    pub name: String,
    /// The region.
    pub region: String,
    /// The API as packer sees it.
    pub api: Api,
    /// The API as this program sees it.
    pub ec2: Ec2,
    /// The way to every other API and region.
    pub door: Door,
    /// What becomes of an image that passed.
    pub distribution: Distribution,
    /// Words to put before a program that must see what the machines see.
    pub enter: Vec<String>,
    /// Variables such a program needs.
    pub environment: Vec<(String, String)>,
}

impl Site {
    /// Finds the addresses. `default_region` holds where the target names none.
    ///
    /// # Errors
    /// When the lab is not up, and when there is no region.
    pub async fn open(target: &Target) -> Result<Site, Error> {
        match &target.endpoint {
            Endpoint::Lab => lab(target).await,
            Endpoint::Aws => Site::remote(target, Api::Aws, Door::default()).await,
            Endpoint::Url(url) => Site::remote(target, Api::Url(url.clone()), Door::new(Some(url), &[])).await,
        }
    }

    /// API and region in one word, by which the journal tells places apart.
    pub fn place(&self) -> String {
        let api = match &self.api {
            Api::Aws => "aws",
            Api::Url(url) | Api::Lab(url) => url,
        };
        format!("{api} {}", self.region)
    }

    /// Every region that has the images of this site; the one in which they are baked first.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.region).chain(&self.distribution.copies).map(String::as_str)
    }

    async fn remote(target: &Target, api: Api, door: Door) -> Result<Site, Error> {
        let ec2 = door.ec2(target.region.as_deref()).await;
        let region = ec2.region().ok_or_else(|| Error::NoRegion(target.name.clone()))?;
        Ok(Site {
            name: target.name.clone(),
            region,
            api,
            ec2,
            door,
            distribution: target.distribution.clone(),
            enter: vec![],
            environment: vec![],
        })
    }
}

async fn lab(target: &Target) -> Result<Site, Error> {
    let name = std::env::var("KILN_LAB").unwrap_or_else(|_| "default".to_owned());
    let access = match Access::load(&name) {
        Ok(Some(access)) => access,
        Ok(None) => return Err(Error::Lab(format!("the lab `{name}` is not up; start it: kiln lab up"))),
        Err(error) => return Err(Error::Lab(error.to_string())),
    };
    // Copies can be anywhere; what is baked needs machines, and they are in one region.
    if let Some(region) = target.region.as_ref().filter(|region| **region != access.region)
        && !target.distribution.copies.is_empty()
    {
        return Err(Error::Lab(format!(
            "the machines of the lab `{name}` are in {}, and target {} bakes in {region}: name {} first under `regions`",
            access.region, target.name, access.region
        )));
    }
    let door = Door::new(Some(&access.host_endpoint), &access.host_environment());
    Ok(Site {
        name: target.name.clone(),
        region: access.region.clone(),
        api: Api::Lab(access.endpoint.clone()),
        ec2: door.ec2(Some(&access.region)).await,
        door,
        distribution: target.distribution.clone(),
        enter: access.enter(),
        environment: access.environment(),
    })
}
