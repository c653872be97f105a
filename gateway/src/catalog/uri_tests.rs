//! Tests of the routing of resources when backends claim the same URIs, and of what `/status` reports.

use std::sync::Arc;

use super::merge::merge;
use super::*;
use crate::backend::ListKind;
use crate::catalog::backend_state::CatalogBackend;
use crate::catalog::test_util::{backend, list};
use crate::config::{ExposurePolicy, HealthSettings, NameFilter, Pattern};

/// A backend with these resources and templates.
fn with(name: &str, resources: &[&str], templates: &[&str], filter: NameFilter) -> Arc<CatalogBackend> {
    let items = |kind, field: &str, uris: &[&str]| {
        let items: Vec<_> = uris
            .iter()
            .map(|uri| serde_json::json!({field: uri}).to_string())
            .collect();
        list(kind, &items.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let policy = ExposurePolicy {
        resources: filter,
        ..ExposurePolicy::default()
    };
    let member = CatalogBackend::new(backend(name), Arc::new(policy), HealthSettings::default());
    member.record_discovery(Ok(BackendOffer {
        resources: items(ListKind::Resources, "uri", resources),
        templates: items(ListKind::Templates, "uriTemplate", templates),
        ..BackendOffer::default()
    }));
    Arc::new(member)
}

fn merged(members: &[Arc<CatalogBackend>]) -> CatalogSnapshot {
    let known: Vec<_> = members
        .iter()
        .map(|member| (member.backend.clone(), member.advertise()))
        .collect();
    merge(&known, &Arc::default())
}

/// A row: resources of a and b, templates of a and b, the URI, its expected backend, and the expected text in `/status`.
type Row<'a> = (
    [&'a [&'a str]; 2],
    [&'a [&'a str]; 2],
    &'a str,
    Option<&'a str>,
    &'a str,
);

/// Whatever b lists, and in whichever order, it gets no URI of a; each overlap is reported.
#[tokio::test]
async fn backend_cannot_take_over_uris_of_another() {
    let rows: &[Row<'_>] = &[
        // A more literal template of b, in an authority in which a lists resources.
        (
            [&["db://main/1"], &["db://main/{+path}"]],
            [&[], &["db://main/users/{id}"]],
            "db://main/users/5",
            Some("a"),
            r#"the template "db://main/users/{id}" of b takes nothing that begins with "db://main": a lists such resources"#,
        ),
        // As before, but a has no template.
        (
            [&["db://main/1"], &[]],
            [&[], &["db://{+all}"]],
            "db://main/2",
            Some("a"),
            r#"the template "db://{+all}" of b takes nothing that begins with "db://main""#,
        ),
        // A template that begins with an expression.
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
        // It may take URIs that no other backend claims.
        (
            [&["db://main/1"], &[]],
            [&[], &["{+any}"]],
            "own://x",
            Some("b"),
            "",
        ),
        // One listed URI with the same scheme.
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
        // One listed URI with the same authority: neither owns it, and a's template still finds a's URIs.
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
        // Scheme and authority compare without case.
        (
            [&["db://main/1"], &[]],
            [&[], &["DB://MAIN/{x}"]],
            "DB://MAIN/2",
            Some("a"),
            r#"the template "DB://MAIN/{x}" of b takes nothing that begins with "db://main""#,
        ),
        // URIs without authority are owned by directory.
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
        // No list decides between the templates: the more literal one wins.
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
            let reported =
                snapshot.conflicts.to_lines().join("\n") + &snapshot.warnings.to_lines().join("\n");
            // Names are in the order of the configuration.
            let turned = says.replacen("a, b ", "b, a ", 1);
            assert!(
                reported.contains(says) || reported.contains(&turned),
                "{says}: {reported}"
            );
        }
    }
}

/// Claims that do not overlap are not reported.
#[tokio::test]
async fn disjoint_uris_are_no_conflict() {
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
    assert_eq!(snapshot.conflicts.to_lines(), [] as [&str; 0]);
}

/// URIs that the owner's filters reject are not the owner's; those that they accept through a template are.
#[tokio::test]
async fn owner_gets_only_what_its_filters_allow() {
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

/// A URI with control characters has no route, because parsers drop them.
#[tokio::test]
async fn uri_with_control_characters_has_no_route() {
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

/// If parsers disagree on what a URI names, filters cannot be enforced. So a backend with filters does not get the URI.
#[tokio::test]
async fn ambiguous_uri_has_no_route_where_filters_exist() {
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
