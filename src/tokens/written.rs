//! A tokenizer as the files that `transformers` reads: of checkpoints that state theirs in another way.

use serde_json::{Value, json};

use super::Tokenizer;
use super::build::BuildError;

impl Tokenizer {
    /// `tokenizer.json` and `tokenizer_config.json`. `eos`: the token that ends a text, where the checkpoint names one.
    ///
    /// # Errors
    /// The library cannot write it.
    pub fn written(&self, eos: Option<u32>) -> Result<[Vec<u8>; 2], BuildError> {
        let invalid = |error: &dyn std::fmt::Display| BuildError::Invalid(error.to_string().into());
        let mut tokenizer = serde_json::to_value(&*self.inner).map_err(|e| invalid(&e))?;
        let name = |id: Option<u32>| id.and_then(|id| self.inner.id_to_token(id));
        let (bos, eos) = (name(self.bos), name(eos));
        // The BOS of what was read from no `tokenizer.json` is put before texts here, not by the library.
        if let (Some(id), Some(bos), true) = (self.bos, &bos, self.adds_bos)
            && tokenizer["post_processor"].is_null()
        {
            let (special, text) = (
                json!({"SpecialToken": {"id": bos, "type_id": 0}}),
                |id, of| json!({"Sequence": {"id": id, "type_id": of}}),
            );
            tokenizer["post_processor"] = json!({
                "type": "TemplateProcessing",
                "single": [special, text("A", 0)],
                "pair": [special, text("A", 0), {"SpecialToken": {"id": bos, "type_id": 1}}, text("B", 1)],
                "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
            });
        }
        let mut policy = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        for (key, token) in [("bos_token", bos), ("eos_token", eos)] {
            if let Some(token) = token {
                policy[key] = Value::String(token);
            }
        }
        let bytes = |value: &Value| serde_json::to_vec(value).map_err(|e| invalid(&e));
        Ok([bytes(&tokenizer)?, bytes(&policy)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same_tokenizer() {
        let text = "The Eiffel Tower is in  the city of\nPar\u{ed}s <s>";
        let bytes = Tokenizer::bytes(300).unwrap();
        for eos in [None, Some(256)] {
            let [tokenizer, policy] = bytes.written(eos).unwrap();
            let read = Tokenizer::from_json(&tokenizer, Some(&policy)).unwrap();
            assert_eq!(read.bos(), (Some(256), true));
            assert_eq!(read.encode(text, None).unwrap(), bytes.encode(text, None).unwrap());
            assert_eq!(read.encode(text, Some(false)).unwrap(), bytes.encode(text, Some(false)).unwrap());
            let policy: Value = serde_json::from_slice(&policy).unwrap();
            assert_eq!(policy.get("eos_token"), eos.map(|_| json!("<s>")).as_ref());
        }
    }
}
