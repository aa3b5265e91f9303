//! The committed examples are what the OpenAPI document calls a request of their endpoint.

use std::path::Path;

#[test]
fn every_example_fits_the_schema_of_its_endpoint() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let kind = path.file_stem().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned();
        let body = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        crate::schema::check_request(&format!("/v1/{kind}"), &body);
        count += 1;
    }
    assert!(count >= 10, "{count}");
}
