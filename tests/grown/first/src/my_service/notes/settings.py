from pydantic import BaseModel, ConfigDict


class NotesSettings(BaseModel):
    model_config = ConfigDict(frozen=True)

    max_length: int = 1000
