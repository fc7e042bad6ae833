//! Where a bake happens: a target of kiln.yaml, resolved to addresses.

use kiln_lab::Access;

use super::Error;
use crate::aws::Ec2;
use crate::images::{Bundle, Endpoint, Target};
use crate::packer::template::Api;

/// A target that can be talked to.
pub struct Site {
    /// As a sentence names it.
    pub name: String,
    /// The region.
    pub region: String,
    /// How images on instance stores are bundled; none where images are made on network volumes.
    pub bundle: Option<Bundle>,
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
            Endpoint::Lab => lab(target).await?,
            Endpoint::Aws => Site::remote(Api::Aws, Ec2::new(region, None, &[]).await),
            Endpoint::Url(url) => Site::remote(Api::Url(url.clone()), Ec2::new(region, Some(url), &[]).await),
        };
        site.name.clone_from(&target.name);
        site.bundle = target.bundle.as_ref().map(absolute).transpose()?;
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

    /// Target and region, by which kiln.lock tells places apart: people read it.
    pub fn title(&self) -> String {
        format!("{}/{}", self.name, self.region)
    }

    fn remote(api: Api, ec2: Ec2) -> Site {
        Site { name: String::new(), region: String::new(), bundle: None, api, ec2, enter: vec![], environment: vec![] }
    }
}

/// With paths that hold wherever packer runs.
fn absolute(bundle: &Bundle) -> Result<Bundle, Error> {
    let [x509_cert, x509_key] = [&bundle.x509_cert, &bundle.x509_key].map(|path| super::session::absolute(path));
    Ok(Bundle { x509_cert: x509_cert?, x509_key: x509_key?, ..bundle.clone() })
}

async fn lab(target: &Target) -> Result<Site, Error> {
    let name = std::env::var("KILN_LAB").unwrap_or_else(|_| "default".to_owned());
    let access = match Access::load(&name) {
        Ok(Some(access)) => access,
        Ok(None) => return Err(Error::Lab(format!("the lab `{name}` is not up; start it: kiln lab up"))),
        Err(error) => return Err(Error::Lab(error.to_string())),
    };
    let ec2 = Ec2::new(Some(&access.region), Some(&access.host_endpoint), &access.host_environment()).await;
    Ok(Site {
        name: target.name.clone(),
        region: access.region.clone(),
        bundle: None,
        api: Api::Lab(access.endpoint.clone()),
        ec2,
        enter: access.enter(),
        environment: access.environment(),
    })
}
