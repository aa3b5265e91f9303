use super::*;

async fn read(response: Response) -> Value {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_problem_carries_its_kind_its_fields_and_the_request_id() {
    let mut problems = Problems::default();
    problems.push("/layers", "out_of_range", "layer 99 of 30", "use 0 to 29");
    problems.push("/samples", "out_of_range", "0 samples", "use 1 to 1000");
    let id = RequestId::new();
    let response = stamp(Problem::from(problems).into_response(), id, false);
    assert_eq!(response.status(), 422);
    assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
    let document = read(response).await;
    assert_eq!(document["type"], "urn:mediant:problem:invalid-request");
    assert_eq!(document["status"], 422);
    assert_eq!(document["instance"], id.to_string());
    assert_eq!(document["errors"][1]["pointer"], "/samples");
    assert_eq!(document["errors"][1]["fix"], "use 1 to 1000");
}

#[tokio::test]
async fn waiting_time_and_extra_members_are_in_header_and_body_and_cannot_forge_standard_members() {
    let problem =
        Problem::new(Kind::Overloaded, "64 wait").retry_after(7).with("queue_depth", 64).with("status", 200);
    let response = problem.into_response();
    assert_eq!(response.headers()[header::RETRY_AFTER], "7");
    let document = read(response).await;
    assert_eq!(
        (&document["status"], &document["queue_depth"], &document["retry_after_s"]),
        (&429.into(), &64.into(), &7.into())
    );
}

#[test]
fn slugs_are_unique() {
    let mut slugs: Vec<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
    slugs.sort_unstable();
    slugs.dedup();
    assert_eq!(slugs.len(), Kind::ALL.len());
}
