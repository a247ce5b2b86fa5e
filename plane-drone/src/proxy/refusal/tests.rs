use super::*;
use http_body_util::BodyExt;
use std::collections::BTreeSet;

#[test]
fn the_table_is_as_documented() {
    let table: Vec<_> = Refusal::ALL.iter().map(|refusal| (refusal.status(), refusal.code())).collect();
    assert_eq!(
        table,
        [
            (400, "malformed"),
            (400, "malformed"),
            (401, "unauthorized"),
            (403, "forbidden"),
            (404, "unknown_backend"),
            (405, "method_not_allowed"),
            (408, "request_timeout"),
            (410, "ended"),
            (413, "body_too_large"),
            (414, "target_too_long"),
            (417, "expectation_failed"),
            (421, "wrong_host"),
            (431, "header_too_large"),
            (501, "not_implemented"),
            (502, "backend_failed"),
            (503, "starting"),
            (503, "overloaded"),
            (503, "draining"),
            (503, "no_certificate"),
            (504, "backend_timeout"),
            (505, "version_not_supported"),
        ]
    );
    let messages: BTreeSet<_> = Refusal::ALL.iter().map(|refusal| refusal.message()).collect();
    assert_eq!(messages.len(), Refusal::ALL.len());
}

/// Status, the value of a field, and the body.
async fn told(refusal: Refusal, accept: Option<&str>, is_head: bool) -> (Response<()>, String) {
    let (head, body) = refusal.into_response_for(accept, is_head).into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn each_is_told_in_three_forms_which_nobody_may_keep_and_all_may_read() {
    for refusal in Refusal::ALL {
        for (accept, kind) in [
            (None, "text/plain; charset=utf-8"),
            (Some("application/json"), "application/json"),
            (Some("text/html,*/*;q=0.8"), "text/html; charset=utf-8"),
        ] {
            let (head, body) = told(refusal, accept, false).await;
            assert_eq!(head.status().as_u16(), refusal.status());
            let field = |name: &str| head.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!(field("content-type"), Some(kind));
            assert_eq!(field("cache-control"), Some("no-store"));
            assert_eq!(field("access-control-allow-origin"), Some("*"));
            assert_eq!(field("content-length"), Some(body.len().to_string().as_str()));
            assert!(body.contains(refusal.message()), "{body}");
            let (bare, nothing) = told(refusal, accept, true).await;
            assert_eq!((bare.status(), bare.headers()), (head.status(), head.headers()));
            assert_eq!(nothing, "");
        }
    }
}

#[tokio::test]
async fn programs_get_json_and_terminals_a_line() {
    let (_, body) = told(Refusal::Ended, Some("application/json"), false).await;
    assert_eq!(body, r#"{"error":"ended","message":"This backend has ended."}"#);
    let (_, body) = told(Refusal::Ended, Some("*/*"), false).await;
    assert_eq!(body, "This backend has ended.\n");
    for (refusal, name, value) in [
        (Refusal::Unauthorized, "www-authenticate", "Bearer"),
        (Refusal::NotYet, "retry-after", "1"),
        (Refusal::NoCertificate, "retry-after", "5"),
        (Refusal::MethodNotAllowed, "allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    ] {
        assert_eq!(told(refusal, None, false).await.0.headers()[name], value);
    }
}

#[tokio::test]
async fn a_page_needs_nothing_from_elsewhere() {
    for refusal in Refusal::ALL {
        let (head, body) = told(refusal, Some("text/html"), false).await;
        for needed in ["<!doctype html>", "<html lang=\"en\">", "<title>", "<main>", "<h1>", "name=\"viewport\""] {
            assert!(body.contains(needed), "{needed}: {body}");
        }
        for foreign in ["<script", "src=", "href=", "url(", "@import", "http:", "https:"] {
            assert!(!body.contains(foreign), "{foreign}: {body}");
        }
        assert!(body.len() < 2048, "{} bytes", body.len());
        assert!(head.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    }
}

#[test]
fn the_documentation_lists_every_cause() {
    let text = include_str!("../../../../docs/deploying.md");
    for refusal in Refusal::ALL {
        let row = format!("\n| {} | `{}` | ", refusal.status(), refusal.code());
        assert_eq!(text.matches(&row).count(), 1, "{row}");
    }
    let rows = text.matches("\n| 4").count() + text.matches("\n| 5").count();
    let mut told: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.code()).collect();
    told.sort_unstable();
    told.dedup();
    assert_eq!(rows, told.len(), "causes that there are not");
}
