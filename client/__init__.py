"""What users import: connections, results, bulk loading. Depends on no other part of NearQL."""
