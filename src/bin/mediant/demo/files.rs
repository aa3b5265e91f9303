//! The folder of results.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use mediant::draw::bars::Bars;
use mediant::draw::raster;

/// Pixels of a PNG per unit of its SVG, as the server draws them.
const PNG_SCALE: f32 = 2.0;

/// Writes files and remembers their names.
pub(super) struct Files {
    folder: PathBuf,
}

impl Files {
    /// Makes the folder; files of an earlier demo in it are replaced.
    pub(super) fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(super) fn folder(&self) -> String {
        self.folder.display().to_string()
    }

    /// Returns the path as it is shown.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// The pictures that came in a response, and the rest of it as JSON.
    pub(super) fn trace(&self, name: &str, response: &Value) -> anyhow::Result<Vec<String>> {
        let plot = |format: &str| response["plots"][format].as_str().context("the answer has no picture");
        let png = STANDARD.decode(plot("png")?).context("the PNG in the answer is not base64")?;
        let mut numbers = response.clone();
        if let Some(fields) = numbers.as_object_mut() {
            fields.remove("plots");
        }
        Ok(vec![
            self.write(&format!("{name}.svg"), plot("svg")?.as_bytes())?,
            self.write(&format!("{name}.png"), &png)?,
            self.write(&format!("{name}.json"), numbers.to_string().as_bytes())?,
        ])
    }

    /// A bar chart of several responses, which no single answer has.
    pub(super) fn bars(&self, name: &str, bars: &Bars) -> anyhow::Result<Vec<String>> {
        let svg = bars.to_svg()?;
        Ok(vec![
            self.write(&format!("{name}.svg"), svg.as_bytes())?,
            self.write(&format!("{name}.png"), &raster::png(&svg, PNG_SCALE)?)?,
        ])
    }
}
