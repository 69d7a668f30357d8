// What every service has, as a front end uses it. This compiles.
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./openapi";

type Item = components["schemas"]["ItemRead"];
type Query = operations["list_items"]["parameters"]["query"];

const client = createClient<paths>({ baseUrl: "http://127.0.0.1:8000" });

export async function listNames(): Promise<string[]> {
  const names: string[] = [];
  let after: string | undefined;
  do {
    const query: Query = { limit: 100, after };
    const { data, error } = await client.GET("/v1/items", { params: { query } });
    if (error) throw new Error(error.detail);
    names.push(...data.items.map((item) => item.name));
    after = data.next ?? undefined;
  } while (after);
  return names;
}

export async function createItem(name: string): Promise<Item> {
  const { data, error } = await client.POST("/v1/items", { body: { name } });
  if (error) {
    const pointers = error.errors?.map((field) => field.pointer ?? field.field) ?? [];
    throw new Error([error.type, error.status, error.title, ...pointers].join(" "));
  }
  return data;
}

export async function rename(item_id: string, name: string): Promise<Date> {
  const options = { params: { path: { item_id } }, body: { name } };
  const { data, error } = await client.PATCH("/v1/items/{item_id}", options);
  if (error) throw new Error(error.request_id);
  return new Date(data.updated_at);
}
