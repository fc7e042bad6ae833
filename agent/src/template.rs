//! Templates over what is known of the instance: files, names in DNS, addresses to call.

use std::ops::Range;

use kiln_schema::diagnostic::nearest;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior};
use serde_json::{Map, Value as Json};

use crate::context::Context;
use crate::datasources::Instance;
use crate::names::Names;

/// Every variable that a template may use.
pub const VARIABLES: &[&str] = &[
    "hostname",
    "fqdn",
    "local_ipv4",
    "public_ipv4",
    "ipv6",
    "zone",
    "region",
    "instance_id",
    "instance_type",
    "image_id",
    "account_id",
    "role",
    "source",
    "metadata",
];

/// Most bytes that a template may become.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Steps that a template may take; a file of ten thousand lines needs a tenth of it.
const FUEL: u64 = 1_000_000;

/// What is known of this instance, by the names in [`VARIABLES`].
///
/// What the source does not tell is left out and not empty, so that a template that needs it fails;
/// one that does not need it says `{% if public_ipv4 is defined %}`.
pub fn variables(context: &Context) -> Json {
    let names = Names::present(context);
    let role = context.config.get("role").filter(|node| !node.is_null()).map(|node| match &node.value {
        kiln_schema::yaml::Value::Scalar(scalar) => scalar.text.clone(),
        _ => node.to_json().to_string(),
    });
    let mut all = of_instance(&context.instance);
    all.insert("hostname".to_owned(), names.short.into());
    all.insert("fqdn".to_owned(), names.full.into());
    all.extend(role.map(|role| ("role".to_owned(), role.into())));
    let in_order = VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), all.remove(*name)?)));
    Json::Object(in_order.collect())
}

/// What the source alone tells, by the same names; the host name is the configuration's to say.
pub fn of_instance(instance: &Instance) -> Map<String, Json> {
    let known = [
        ("local_ipv4", instance.local_ipv4.as_ref()),
        ("public_ipv4", instance.public_ipv4.as_ref()),
        ("ipv6", instance.ipv6.as_ref()),
        ("zone", instance.zone.as_ref()),
        ("region", instance.region.as_ref()),
        ("instance_id", Some(&instance.id)),
        ("instance_type", instance.instance_type.as_ref()),
        ("image_id", instance.image_id.as_ref()),
        ("account_id", instance.account_id.as_ref()),
        ("source", Some(&instance.source)),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone().into())));
    let mut variables: Map<String, Json> = known.collect();
    variables.insert("metadata".to_owned(), instance.metadata.clone());
    variables
}

/// Why a template has no text.
pub struct Fault {
    /// From 1.
    pub line: Option<usize>,
    /// The expression and what is wrong with it.
    pub message: String,
    /// It is wrong whatever the variables are.
    pub is_of_form: bool,
}

/// Renders a template, as Jinja does with `trim_blocks`. Nothing is escaped; the last newline stays.
///
/// # Errors
/// One sentence with the template's name, the line and the expression. A variable that is not there is an error.
pub fn render(name: &str, text: &str, variables: &Json) -> Result<String, String> {
    fill_in(text, UndefinedBehavior::Strict, variables).map_err(|error| {
        let place = error.line().map_or_else(|| name.to_owned(), |line| format!("{name} line {line}"));
        format!("{place}: {}", describe(text, &error, variables, VARIABLES))
    })
}

/// Renders a template of user-data, as [`render`] does, but that a condition may ask for a variable that is not
/// there: documents for cloud-init do. Without variables only what needs none can be rendered.
///
/// # Errors
/// When a variable is not there, or the template is not well formed.
pub fn fill(text: &str, variables: Option<&Json>) -> Result<String, Fault> {
    let none = Json::Object(Map::new());
    let variables = variables.unwrap_or(&none);
    fill_in(text, UndefinedBehavior::SemiStrict, variables).map_err(|error| {
        let top: Vec<&str> = variables.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
        let is_of_form = matches!(
            error.kind(),
            ErrorKind::SyntaxError | ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction
        );
        Fault { line: error.line(), message: describe(text, &error, variables, &top), is_of_form }
    })
}

fn fill_in(text: &str, undefined: UndefinedBehavior, variables: &Json) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(undefined);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).keep_trailing_newline(true).build()?);
    environment.set_unknown_method_callback(method);
    // A loop without end is an error and not a hang.
    environment.set_fuel(Some(FUEL));
    // Only so does an error know its expression.
    environment.set_debug(true);
    let mut rendered = Bounded(Vec::new());
    let template = environment.template_from_named_str("template", text)?;
    template.render_captured_to(Serde(variables), &mut rendered)?;
    Ok(String::from_utf8_lossy(&rendered.0).into_owned())
}

/// What a template becomes, while it has a sane size: a loop of few steps may print much.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BYTES {
            return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The methods of Python's values that templates for cloud-init call, where the engine has filters.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let with = |first: &Value, rest: &[Value]| [std::slice::from_ref(first), rest].concat();
    let prefix = |fits: fn(&str, &str) -> bool| match (value.as_str(), arguments) {
        (Some(text), [part]) => part.as_str().map(|part| Value::from(fits(text, part))),
        _ => None,
    };
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    match (value.kind(), name) {
        (ValueKind::String, "startswith") => prefix(|text, part| text.starts_with(part)).ok_or_else(unknown),
        (ValueKind::String, "endswith") => prefix(|text, part| text.ends_with(part)).ok_or_else(unknown),
        (ValueKind::String, "strip") => state.apply_filter("trim", &with(value, arguments)),
        (ValueKind::String, "split") => {
            let parts = state.apply_filter("split", &with(value, arguments))?;
            // Python's are a list, of which an item may be taken.
            state.apply_filter("list", &[parts])
        }
        (ValueKind::String, "join") => match arguments {
            [items] => state.apply_filter("join", &[items.clone(), value.clone()]),
            _ => Err(unknown()),
        },
        (ValueKind::String, "upper" | "lower" | "title" | "capitalize" | "replace") | (ValueKind::Map, "items") => {
            state.apply_filter(name, &with(value, arguments))
        }
        (ValueKind::Map, "keys") if arguments.is_empty() => state.apply_filter("list", std::slice::from_ref(value)),
        (ValueKind::Map, "get") => match arguments {
            [key, default @ ..] if default.len() < 2 => {
                let found = value.get_item(key)?;
                let default = || default.first().cloned().unwrap_or_else(|| Value::from(()));
                Ok(if found.is_undefined() { default() } else { found })
            }
            _ => Err(unknown()),
        },
        _ => Err(unknown()),
    }
}

fn describe(text: &str, error: &Error, variables: &Json, known: &[&str]) -> String {
    if error.kind() == ErrorKind::WriteFailure {
        return format!("the text becomes larger than {} MiB", MAX_BYTES / 1024 / 1024);
    }
    let expression = without_literals(error.range().map(|range| expression_at(text, range)).unwrap_or_default());
    if error.kind() == ErrorKind::UndefinedError && !expression.is_empty() {
        let first = expression.split(['.', '[', ' ', '|']).next().unwrap_or(expression);
        let (folder, last) = expression.rsplit_once('.').unwrap_or(("", expression));
        if variables.get(first).is_none() {
            let why = if known.contains(&first) {
                format!(
                    "the datasource does not tell it; write `{{% if {first} is defined %}}` around it if that is fine"
                )
            } else {
                let meant = nearest(first, known.iter().copied());
                let meant = meant.map_or(String::new(), |meant| format!("did you mean `{meant}`? "));
                format!("{meant}there are {}", known.join(", "))
            };
            return format!("`{first}` is not defined: {why}");
        }
        let around = variables.pointer(&format!("/{}", folder.replace('.', "/"))).and_then(Json::as_object);
        let meant = around.and_then(|around| nearest(last, around.keys().map(String::as_str)));
        let why = meant.map_or_else(
            || {
                format!(
                    "the datasource does not tell it; write `{{{{ {expression} | default('…') }}}}` if that is fine"
                )
            },
            |meant| format!("did you mean `{meant}`?"),
        );
        return format!("`{expression}` is not defined: {why}");
    }
    let detail =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    if expression.is_empty() || error.kind() == ErrorKind::SyntaxError {
        detail
    } else {
        format!("{detail} in `{expression}`")
    }
}

/// An expression up to its first literal text, which may be a password.
fn without_literals(expression: &str) -> &str {
    expression.split(['"', '\'']).next().unwrap_or_default().trim_end_matches([' ', '(', '[', '{', ',', '='])
}

/// The expression at a range, which for `a.b.c` may begin at `.b`: then it is taken from `a` on.
fn expression_at(text: &str, range: Range<usize>) -> &str {
    let before = text.get(..range.start).unwrap_or_default();
    let whole = before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    let start = if text.get(range.clone()).is_some_and(|part| part.starts_with(['.', '['])) {
        whole.len()
    } else {
        range.start
    };
    text.get(start..range.end).unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn known() -> Json {
        json!({"hostname": "web", "fqdn": "web.example.org", "metadata": {"local-hostname": "x", "tags": {"Name": "a<b"}}})
    }

    #[test]
    fn text_stays_as_it_is_but_for_what_is_filled_in() {
        for (text, expected) in [
            ("127.0.1.1 {{ fqdn }} {{ hostname }}\n", "127.0.1.1 web.example.org web\n"),
            ("no newline", "no newline"),
            ("{{ metadata['local-hostname'] }} {{ metadata.tags.Name }}", "x a<b"),
            ("{% if zone is defined %}\n{{ zone }}\n{% endif %}\nend\n", "end\n"),
            ("{{ zone | default('none') }}", "none"),
            ("{{ fqdn.split('.')[0] }} {{ '-'.join(fqdn.split('.')) }}", "web web-example-org"),
            (
                "{{ fqdn.upper() }} {{ ' a '.strip() }} {{ fqdn.replace('.', '_') }}",
                "WEB.EXAMPLE.ORG a web_example_org",
            ),
            ("{% if fqdn.startswith('web') and not fqdn.endswith('x') %}y{% endif %}", "y"),
            ("{% for k, v in metadata.tags.items() %}{{ k }}={{ v }}{% endfor %}", "Name=a<b"),
            (
                "{{ metadata.get('nope', '-') }} {{ metadata.tags.get('Name') }} {{ metadata.tags.keys() | first }}",
                "- a<b Name",
            ),
            ("", ""),
        ] {
            assert_eq!(render("t.html", text, &known()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_template_the_line_and_the_expression() {
        for (text, expected) in [
            (
                "a\nb {{ hostnam }}",
                "hosts line 2: `hostnam` is not defined: did you mean `hostname`? there are hostname, ",
            ),
            ("{{ zone }}", "hosts line 1: `zone` is not defined: the datasource does not tell it; "),
            ("\n\n{{ metadata.nope }}", "hosts line 3: `metadata.nope` is not defined"),
            ("{{ metadata.nope.deeper }}", "hosts line 1: `metadata.nope"),
            ("ok\n{% if hostname %}", "hosts line 2: syntax error: unexpected end of input"),
            ("{{ hostname | shout }}", "hosts line 1: unknown filter: filter shout is unknown"),
            ("{{ hostname.shout() }}", "hosts line 1: unknown method: string has no method named shout"),
            ("{{ hostname.startswith(1) }}", "hosts line 1: unknown method"),
            ("{% for x in zonne %}{% endfor %}", "hosts line 1: `zonne` is not defined"),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
                "hosts line 1: engine ran out",
            ),
            (
                "{% set x = 'x' * 1000000 %}{% for i in range(1000) %}{{ x }}{% endfor %}",
                "hosts: the text becomes larger than 16 MiB",
            ),
            ("{% include '/etc/shadow' %}", "hosts line 1: syntax error: unknown statement include"),
        ] {
            let error = render("hosts", text, &known()).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_template_of_user_data_may_ask_for_what_is_not_there_but_not_use_it() {
        let known = json!({"v1": {"region": "eu-west-1"}});
        let filled = |text: &str| fill(text, Some(&known)).map_err(|fault| (fault.line, fault.message));
        assert_eq!(filled("{% if v1.zone %}a{% endif %}{% if nope %}b{% endif %}c").as_deref(), Ok("c"));
        for (text, told) in [
            (
                "\n{{ v1.zone }}",
                "`v1.zone` is not defined: the datasource does not tell it; write `{{ v1.zone | default",
            ),
            ("\n{{ v1.regoin }}", "`v1.regoin` is not defined: did you mean `region`?"),
            ("\n{{ nope }}", "`nope` is not defined: there are v1"),
            ("\n{{ nope.deeper }}", "`nope"),
        ] {
            let (line, message) = filled(text).unwrap_err();
            assert!(line == Some(2) && message.starts_with(told), "{line:?} {message}");
        }
        for text in [
            "{{ 'hunter2' | shout }}",
            "{{ v1.region.shout('hunter2') }}",
            "{{ nope('hunter2') }}",
            "{{ 'hunter2' hunter2 }}",
        ] {
            let (_, message) = filled(text).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert!(fill("{{ 1 | shout }}", None).is_err_and(|fault| fault.is_of_form));
        assert!(fill("{{ nope }}", None).is_err_and(|fault| !fault.is_of_form));
    }

    #[test]
    fn what_the_source_does_not_tell_is_undefined_and_what_it_tells_is_there() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "{role: 007, fqdn: web.example.org}");
        let instance = Arc::make_mut(&mut context.instance);
        instance.region = Some("eu-west-1".to_owned());
        instance.metadata = json!({"ami-id": "ami-1"});
        let expected = json!({
            "hostname": "web", "fqdn": "web.example.org", "region": "eu-west-1", "instance_id": "i-test",
            "role": "007", "source": "test", "metadata": {"ami-id": "ami-1"},
        });
        assert_eq!(variables(&context), expected);
    }

    #[test]
    fn every_documented_variable_is_given_when_the_source_tells_all() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "role: web");
        let all = Some("x".to_owned());
        let instance = Arc::make_mut(&mut context.instance);
        for field in [
            &mut instance.hostname,
            &mut instance.local_ipv4,
            &mut instance.public_ipv4,
            &mut instance.ipv6,
            &mut instance.region,
            &mut instance.zone,
            &mut instance.instance_type,
            &mut instance.image_id,
            &mut instance.account_id,
        ] {
            field.clone_from(&all);
        }
        let variables = variables(&context);
        let names: Vec<_> = variables.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, VARIABLES);
    }
}
