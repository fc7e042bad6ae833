//! Addresses of repositories of git, without the secrets in them.

/// How git asks for the name and the password, which are in its environment and never in an argument.
const HELPER: &str = "!f() { echo \"username=$KILN_GIT_NAME\"; echo \"password=$KILN_GIT_PASSWORD\"; }; f";

/// An address without the name and the password in it, and the variables by which git gets them.
///
/// An argument is for everybody to see in the list of processes, and a clone keeps its address in a file.
pub fn split(address: &str) -> (String, Vec<(&'static str, String)>) {
    let parts = address.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
    let Some((scheme, rest)) = parts else { return (address.to_owned(), Vec::new()) };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((secret, host)) = host.rsplit_once('@') else { return (address.to_owned(), Vec::new()) };
    let (name, password) = secret.split_once(':').unwrap_or((secret, ""));
    let variables = vec![
        ("GIT_CONFIG_COUNT", "1".to_owned()),
        ("GIT_CONFIG_KEY_0", format!("credential.{scheme}://{host}.helper")),
        ("GIT_CONFIG_VALUE_0", HELPER.to_owned()),
        ("KILN_GIT_NAME", decoded(name)),
        ("KILN_GIT_PASSWORD", decoded(password)),
    ];
    (format!("{scheme}://{host}{path}"), variables)
}

/// Text with its `%41` resolved.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = if *first == b'%' { after.get(..2).and_then(|two| std::str::from_utf8(two).ok()) } else { None };
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_leaves_the_address_and_another_address_stays() {
        let (address, variables) = split("https://me:p%40ss%zz@host:8443/a/b.git?x=@");
        assert_eq!(address, "https://host:8443/a/b.git?x=@");
        let value = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
        assert_eq!(value("GIT_CONFIG_KEY_0"), Some("credential.https://host:8443.helper"));
        assert_eq!((value("KILN_GIT_NAME"), value("KILN_GIT_PASSWORD")), (Some("me"), Some("p@ss%zz")));
        assert_eq!(split("https://token@host").0, "https://host");
        for address in ["https://host/a@b", "git@github.com:a/b.git", "ssh://git@host/x", "/srv/a", "http://"] {
            assert_eq!(split(address), (address.to_owned(), Vec::new()), "{address}");
        }
    }
}
