//! Which backend a resource is read from when backends claim the same URIs, and who is told of it.

use std::sync::Arc;

use super::merge::merge;
use super::*;
use crate::backend::ListKind;
use crate::catalog::backend_state::CatalogBackend;
use crate::catalog::test_util::{backend, list};
use crate::config::{ExposurePolicy, HealthSettings, NameFilter, Pattern};

/// A backend of that name with these resources and templates.
fn with(name: &str, resources: &[&str], templates: &[&str], filter: NameFilter) -> Arc<CatalogBackend> {
    let items = |kind, field: &str, uris: &[&str]| {
        let items: Vec<_> = uris
            .iter()
            .map(|uri| serde_json::json!({field: uri}).to_string())
            .collect();
        list(kind, &items.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let terms = ExposurePolicy {
        resources: filter,
        ..ExposurePolicy::default()
    };
    let member = CatalogBackend::new(backend(name), Arc::new(terms), HealthSettings::default());
    member.observe(Ok(BackendOffer {
        resources: items(ListKind::Resources, "uri", resources),
        templates: items(ListKind::Templates, "uriTemplate", templates),
        ..BackendOffer::default()
    }));
    Arc::new(member)
}

fn merged(members: &[Arc<CatalogBackend>]) -> CatalogSnapshot {
    let known: Vec<_> = members
        .iter()
        .map(|member| (member.backend.clone(), member.show()))
        .collect();
    merge(&known, &Arc::default())
}

/// A row: what a and b list, each resources and templates; which URI; whose it is; and what `/status` says, naming both.
type Row<'a> = (
    [&'a [&'a str]; 2],
    [&'a [&'a str]; 2],
    &'a str,
    Option<&'a str>,
    &'a str,
);

/// Whatever b lists, and whether it comes first or second, it draws nothing to itself that is a's, and what overlaps is a conflict.
#[tokio::test]
async fn backend_draws_no_uris_of_others_to_itself() {
    let rows: &[Row<'_>] = &[
        // A template of b that says more, in an authority in which a lists resources.
        (
            [&["db://main/1"], &["db://main/{+path}"]],
            [&[], &["db://main/users/{id}"]],
            "db://main/users/5",
            Some("a"),
            r#"the template "db://main/users/{id}" of b takes nothing that begins with "db://main": a lists such resources"#,
        ),
        // The same, where a has no template.
        (
            [&["db://main/1"], &[]],
            [&[], &["db://{+all}"]],
            "db://main/2",
            Some("a"),
            r#"the template "db://{+all}" of b takes nothing that begins with "db://main""#,
        ),
        // A template without a beginning.
        (
            [&["db://main/1"], &[]],
            [&[], &["{+any}"]],
            "db://other/2",
            Some("a"),
            r#"the template "{+any}" of b begins with no scheme: it takes no URI of a scheme of which others have resources: a"#,
        ),
        (
            [&[], &["db://{table}/rows"]],
            [&[], &["{+any}"]],
            "db://x/y",
            Some("a"),
            "",
        ),
        (
            [&[], &["db://{table}/rows"]],
            [&[], &["{scheme}://{+any}"]],
            "db://x/rows",
            Some("a"),
            "",
        ),
        // It may take what is nobody's.
        (
            [&["db://main/1"], &[]],
            [&[], &["{+any}"]],
            "own://x",
            Some("b"),
            "",
        ),
        // One listed URI of the scheme.
        (
            [&["db://main/1"], &[]],
            [&["db://evil/1"], &[]],
            "db://main/2",
            Some("a"),
            "a, b have resources of the scheme \"db:\"",
        ),
        (
            [&["db://main/1"], &[]],
            [&["db://evil/1"], &[]],
            "db://evil/2",
            Some("b"),
            "",
        ),
        (
            [&["db://main/1"], &[]],
            [&["db://evil/1"], &[]],
            "db://third/2",
            None,
            "",
        ),
        // One listed URI of the authority: nobody owns it, and a's template still finds what is a's.
        (
            [&["db://main/1"], &["db://main/{+path}"]],
            [&["db://main/evil"], &[]],
            "db://main/2",
            Some("a"),
            r#"a, b list resources that begin with "db://main""#,
        ),
        (
            [&["db://main/1"], &[]],
            [&["db://main/evil"], &[]],
            "db://main/2",
            None,
            "",
        ),
        // Another case of scheme and authority is the same authority.
        (
            [&["db://main/1"], &[]],
            [&[], &["DB://MAIN/{x}"]],
            "DB://MAIN/2",
            Some("a"),
            r#"the template "DB://MAIN/{x}" of b takes nothing that begins with "db://main""#,
        ),
        // Directories, where there is no authority.
        (
            [&["file:///srv/a/x"], &[]],
            [&[], &["file:///{+path}"]],
            "file:///srv/a/y",
            Some("a"),
            r#"the template "file:///{+path}" of b takes nothing that begins with "file:///srv/a/""#,
        ),
        (
            [&["file:///srv/a/x"], &[]],
            [&[], &["file:///{+path}"]],
            "file:///srv/b/y",
            Some("b"),
            "",
        ),
        (
            [&["file:///x"], &[]],
            [&["file:///srv/b/y"], &[]],
            "file:///srv/b/z",
            Some("b"),
            r#"b lists resources that begin with "file:///srv/b/", within "file:///" where a lists some"#,
        ),
        // Templates that nobody's lists decide: the one that says more goes first.
        (
            [&[], &["db://main/{+path}"]],
            [&[], &["db://main/users/{id}"]],
            "db://main/users/5",
            Some("b"),
            r#"the template "db://main/users/{id}" of b fits URIs that "db://main/{+path}" of a fits, too"#,
        ),
    ];
    for (of_a, of_b, uri, expected, says) in rows {
        let a = with("a", of_a[0], of_a[1], NameFilter::default());
        let b = with("b", of_b[0], of_b[1], NameFilter::default());
        for members in [[Arc::clone(&a), Arc::clone(&b)], [Arc::clone(&b), Arc::clone(&a)]] {
            let snapshot = merged(&members);
            let found = snapshot.resource(uri).ok();
            let found = found.as_ref().map(|route| route.backend.name().as_str());
            assert_eq!(found, *expected, "{uri}: {of_a:?} {of_b:?}");
            let told = snapshot.conflicts.told().join("\n") + &snapshot.warnings.told().join("\n");
            // Names stand in the order of the configuration.
            let turned = says.replacen("a, b ", "b, a ", 1);
            assert!(told.contains(says) || told.contains(&turned), "{says}: {told}");
        }
    }
}

/// Backends that keep to themselves are no conflict.
#[tokio::test]
async fn uris_that_do_not_overlap_are_no_conflict() {
    let none = NameFilter::default;
    let snapshot = merged(&[
        with(
            "a",
            &["own://a/1"],
            &["gh://a/{owner}/issues/{n}", "x://{a}"],
            none(),
        ),
        with("b", &["https://b.example/1"], &["gh://{owner}/pulls/{n}"], none()),
        with(
            "c",
            &["https://c.example/1", "file:///c/1"],
            &["file:///d/{x}"],
            none(),
        ),
        with("d", &["file:///e/1"], &[], none()),
    ]);
    assert_eq!(snapshot.conflicts.told(), [] as [&str; 0]);
}

/// What an owner's filters keep back is not the owner's, and what they let pass through a template is.
#[tokio::test]
async fn owner_takes_only_what_it_may_offer() {
    let filter = |allow: &[&str], deny: &[&str]| NameFilter {
        allow: allow.iter().map(|text| Pattern::new(text)).collect(),
        deny: deny.iter().map(|text| Pattern::new(text)).collect(),
    };
    let a = with(
        "a",
        &["db://main/1"],
        &["db://main/own/{x}"],
        filter(&["db://main/1", "db://main/own/{x}"], &["db://main/own/secret"]),
    );
    let b = with("b", &[], &["db://main/{+path}"], NameFilter::default());
    let snapshot = merged(&[a, b]);
    for (uri, expected) in [
        ("db://main/own/2", "a"),
        ("db://main/own/secret", "b"),
        ("db://main/2", "b"),
    ] {
        let route = snapshot.resource(uri).unwrap();
        assert_eq!(route.backend.name().as_str(), expected, "{uri}");
    }
}

/// What a client writes with control characters is read at no backend, because parsers leave them out.
#[tokio::test]
async fn uri_with_control_characters_is_nowhere() {
    let a = with(
        "a",
        &["db://main/a b", "db://main/a\tb"],
        &["db://main/{+path}"],
        NameFilter::default(),
    );
    let snapshot = merged(&[a]);
    for (uri, is_found) in [
        ("db://main/a b", true),
        ("db://main/a\tb", true),
        ("db://main/c d", true),
        ("db://main/c\td", false),
        ("db://main/c\0", false),
        ("\ndb://main/c", false),
        ("db://main/c\u{85}", false),
    ] {
        assert_eq!(snapshot.resource(uri).is_ok(), is_found, "{uri:?}");
    }
}

/// Where parsers disagree about what a URI names, no rule can hold, so that a backend with rules is not asked for it.
#[tokio::test]
async fn ambiguous_uri_is_nowhere_where_there_are_rules() {
    let filter = |allow: &[&str], deny: &[&str]| NameFilter {
        allow: allow.iter().map(|text| Pattern::new(text)).collect(),
        deny: deny.iter().map(|text| Pattern::new(text)).collect(),
    };
    for (filter, uri) in [
        (filter(&[], &["file:///a/secret"]), "file:///a/x%3F/../secret"),
        (filter(&[], &["file:///a/secret"]), "file:///a//../secret"),
        (filter(&["file:///a/*"], &[]), "file:///a/x%3F/../../secret"),
        (filter(&[], &["file:///a/secret"]), "file:///a/secret/"),
    ] {
        for templates in [&[][..], &["file:///{+path}"]] {
            let found = |filter| merged(&[with("a", &["file:///a/known"], templates, filter)]).resource(uri);
            assert!(found(filter.clone()).is_err(), "{uri} {templates:?}");
            assert!(found(NameFilter::default()).is_ok(), "{uri} {templates:?}");
        }
    }
}
