//! Where a bake happens: a target of kiln.yaml, resolved to addresses.

use kiln_lab::Access;

use super::Error;
use crate::aws::Ec2;
use crate::images::{Endpoint, Target};
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
        let region = target.region.as_deref();
        let mut site = match &target.endpoint {
            Endpoint::Lab => return lab(target).await,
            Endpoint::Aws => Site::remote(Api::Aws, Ec2::new(region, None, &[]).await),
            Endpoint::Url(url) => Site::remote(Api::Url(url.clone()), Ec2::new(region, Some(url), &[]).await),
        };
        site.name.clone_from(&target.name);
        site.region = site.ec2.region().ok_or_else(|| Error::NoRegion(target.name.clone()))?;
        Ok(site)
    }

    /// API and region in one word, by which the journal tells places apart.
    pub fn place(&self) -> String {
        let api = match &self.api {
            Api::Aws => "aws",
            Api::Url(url) | Api::Lab(url) => url,
        };
        format!("{api} {}", self.region)
    }

    fn remote(api: Api, ec2: Ec2) -> Site {
        Site { name: String::new(), region: String::new(), api, ec2, enter: vec![], environment: vec![] }
    }
}

/// The lab of this machine that is meant, which has to be up.
///
/// # Errors
/// When it is not.
pub fn lab_access() -> Result<Access, Error> {
    let name = std::env::var("KILN_LAB").unwrap_or_else(|_| "default".to_owned());
    match Access::load(&name) {
        Ok(Some(access)) => Ok(access),
        Ok(None) => Err(Error::Lab(format!("the lab `{name}` is not up; start it: kiln lab up"))),
        Err(error) => Err(Error::Lab(error.to_string())),
    }
}

async fn lab(target: &Target) -> Result<Site, Error> {
    let access = lab_access()?;
    let ec2 = Ec2::new(Some(&access.region), Some(&access.host_endpoint), &access.host_environment()).await;
    Ok(Site {
        name: target.name.clone(),
        region: access.region.clone(),
        api: Api::Lab(access.endpoint.clone()),
        ec2,
        enter: access.enter(),
        environment: access.environment(),
    })
}
