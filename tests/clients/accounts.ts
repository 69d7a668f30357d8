// What a service with `auth=password` has besides. This compiles.
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi";

const client = createClient<paths>({ baseUrl: "http://127.0.0.1:8000" });

export async function logIn(username: string, password: string): Promise<string> {
  const { data, error } = await client.POST("/v1/auth/token", {
    body: { grant_type: "password", username, password },
    bodySerializer: (form) => new URLSearchParams(form),
  });
  if (data) return data.access_token;
  const reason = "error" in error ? error.error : undefined;
  throw new Error(reason === "invalid_grant" ? "Wrong password." : error.detail);
}

export async function deactivate(user_id: string): Promise<components["schemas"]["Role"]> {
  const options = { params: { path: { user_id } }, body: { is_active: false } };
  const { data, error } = await client.PATCH("/v1/auth/users/{user_id}", options);
  if (error) throw new Error(error.detail);
  return data.role;
}
